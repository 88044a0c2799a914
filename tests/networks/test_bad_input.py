"""Parameters that cannot work are one clear error, which names them."""

from __future__ import annotations

import pytest
import torch

from regroup.errors import NetworkError, UnknownNameError
from regroup.networks import create_model

CASES = [
    ("resnet50", {"group": 2}, r"group=2: must be left out: resnet50 has num_classes, .* groups"),
    ("resnet50", {"groups": 0}, "groups=0: must be an int of at least 1"),
    ("resnet50", {"widths": (64, 128)}, "depths=.*: must be 2 ints of at least 1, one for each stage"),
    ("resnet50", {"depths": (0, 1, 1, 1)}, "depths=.*: must be 4 ints of at least 1"),
    ("resnet50", {"drop_rate": 1.5}, "drop_rate=1.5: must be at least 0 and below 1"),
    ("resnet50", {"global_pool": "sum"}, "global_pool='sum': must be 'avg', 'max' or ''"),
    ("resnet50", {"num_classes": -1}, "num_classes=-1: must be at least 0"),
    ("mobilenet_v2_100", {"width": -1.0}, "width=-1.0: must be above 0"),
    ("shufflenet_v1_g3_100", {"groups": 7}, "groups=7: must be a divisor of in_channels=63"),
    ("shufflenet_v1_g3_100", {"depths": (4, 8)}, "depths=.*: must be 3 ints"),
    ("shufflenet_v2_100", {"order": "x"}, "order='x': must be 'paper' or 'official'"),
    ("shufflenet_v2_100", {"widths": (24, 117, 232, 464, 1024)}, "must be even .* change 117"),
    ("shufflenet_v2_plus_small", {"kernels": (3, 5)}, r"kernels=\(3, 5\): must be 20, one for each unit"),
    ("shufflenet_oneshot", {"scales": (1.0,)}, r"scales=\(1.0,\): must be 20, one for each unit, or none"),
    ("igcv3_100", {"groups": 5}, "groups=5: must be a divisor of in_channels=32"),
    ("igcv1_18_l4m32", {"primary": (3, 3, 3, 3)}, "primary=3: must be a divisor of 128"),
    ("condensenet_74_g4", {"factor": 3}, "factor=3: must be a divisor of 16 channels"),
    ("condensenetv2_a", {"depths": (1, 1)}, "depths=.*: must be 5 ints"),
    ("dgc_resnet18", {"gate": 2.0}, "gate=2.0: must be above 0 and at most 1"),
    ("oct_resnet50_a05", {"alpha": 1.0}, "alpha=1.0: must be at least 0 and below 1"),
    ("oct_resnet50_a05", {"form": "d"}, "form='d': must be 'b', 'e' or 'f'"),
    ("bl_resnet50", {"alpha": 3}, "alpha=3: must be a divisor of 64 channels"),
    ("bl_resnet50", {"beta": 0}, "beta=0: must be an int of at least 1"),
    ("scalenet50", {"structure": ((1, 2, 3),)}, "structure=.*: must be 4 stages of blocks of 4 numbers"),
    ("alexnet", {"norm": "x"}, "norm='x': must be 'paper', 'caffe', 'batch' or 'none'"),
    ("googlenet", {"kernel_size": 4}, "kernel_size=4: must be odd"),
]


@pytest.mark.parametrize(("name", "options", "message"), CASES, ids=lambda case: str(case)[:40])
def test_what_cannot_be_built_is_named_with_what_can(name: str, options: dict, message: str) -> None:
    with torch.device("meta"), pytest.raises(NetworkError, match=message):
        create_model(name, **options)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'resnet56' or 'resnet50'"):
        create_model("resnet5")
