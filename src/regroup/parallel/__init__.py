"""One network on several devices, its channels shared among them, as AlexNet's towers were.

plan   what each device would hold, send and compute, before anything runs
shard  do it
"""

from typing import TYPE_CHECKING

from regroup.lazy import lazily

if TYPE_CHECKING:
    from regroup.parallel.planning import Plan as Plan
    from regroup.parallel.planning import plan as plan
    from regroup.parallel.sharding import shard as shard
    from regroup.parallel.state import gathered as gathered
    from regroup.parallel.state import gathered_optimizer as gathered_optimizer
    from regroup.parallel.state import gradient_norm as gradient_norm
    from regroup.parallel.state import scattered as scattered
    from regroup.parallel.state import scattered_optimizer as scattered_optimizer
    from regroup.parallel.state import unshard as unshard

_HOME = {
    "Plan": "planning",
    "gathered": "state",
    "gathered_optimizer": "state",
    "gradient_norm": "state",
    "plan": "planning",
    "scattered": "state",
    "scattered_optimizer": "state",
    "shard": "sharding",
    "unshard": "state",
}

__all__ = list(_HOME)

__getattr__, __dir__ = lazily(__name__, _HOME)
