"""One network on several devices, its channels shared among them, as AlexNet's towers were.

plan   what each device would hold, send and compute, before anything runs
shard  do it
"""

from typing import TYPE_CHECKING

from regroup.lazy import lazily

if TYPE_CHECKING:
    from regroup.parallel.planning import Plan as Plan
    from regroup.parallel.planning import plan as plan
    from regroup.parallel.sharding import gathered as gathered
    from regroup.parallel.sharding import gathered_optimizer as gathered_optimizer
    from regroup.parallel.sharding import scattered as scattered
    from regroup.parallel.sharding import scattered_optimizer as scattered_optimizer
    from regroup.parallel.sharding import shard as shard

_HOME = {
    "Plan": "planning",
    "gathered": "sharding",
    "gathered_optimizer": "sharding",
    "plan": "planning",
    "scattered": "sharding",
    "scattered_optimizer": "sharding",
    "shard": "sharding",
}

__all__ = list(_HOME)

__getattr__, __dir__ = lazily(__name__, _HOME)
