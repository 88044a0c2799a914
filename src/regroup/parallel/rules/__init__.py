"""What PyTorch's functions do to tensors whose channels are divided among devices: a file for each kind."""

import regroup.parallel.rules.layers
import regroup.parallel.rules.moves
import regroup.parallel.rules.pointwise  # noqa: F401 (they register their rules)
