"""What decides what the layers of a network can become, and at what cost: by it a conversion goes on.

>>> model = regroup.create_model("resnet_small", num_classes=10, in_chans=1)
>>> data = regroup.load_data("digits")
>>> one, other = (identify(model, data, {"macs": share}, ConvertConfig()) for share in (0.5, 0.6))
>>> one.differences(other)
[Difference(name='budget macs', was=0.5, now=0.6)]

How the network is trained at the end is not in it: that has a directory and an identity of its own, as has
every run (`regroup.training.identity`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from regroup.conversion.convert import ConvertConfig
from regroup.profiling.machine import machine
from regroup.training import DataSet
from regroup.training.code import ENGINE, own_digest, packages, sources
from regroup.training.identity import Identity, code_of, describe_data, digest_of_state, structure

_LATER = ("blocks", "training")
"""Fields of the config that decide only what is done once it is known what each layer is to become."""


def identify(
    model: nn.Module,
    data: DataSet,
    budget: Mapping[str, float],
    config: ConvertConfig,
    code: Iterable[Any] = (),
) -> Identity:
    """Return the identity of a conversion, as far as to what each layer is to become.

    Args:
        model: the trained network.
        data: as the network is shown it.
        budget: as `regroup.conversion.budget.parse_budget` returns it.
        config: how.
        code: modules whose source decides it, such as those of plugins, besides the classes of the network's.
    """
    roots = [*code_of(model, data=data), *code]
    fields = {
        "budget": dict(budget),
        "config": {name: value for name, value in asdict(config).items() if name not in _LATER},
        "data": describe_data(data),
        "weights": digest_of_state(model),
        "structure": structure(model),
        "sources": sources(roots),
        "packages": {**packages(roots), "regroup": own_digest(ENGINE)},
        "machine": machine().to_dict(),
    }
    return Identity(json.loads(json.dumps(fields)))
