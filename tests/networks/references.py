"""Other people's implementations of our networks.

Where a library builds a network from its depths, both are built with two blocks a stage: the later blocks are
of the second one's kind, and the claims hold the full depth.
"""

from __future__ import annotations

from functools import partial

import torch
import torchvision
from torch import nn

from regroup.networks import list_models, networks
from tests.networks.definitions import DEFINITIONS
from tests.networks.definitions_classic import classic
from tests.networks.definitions_octave import octave_resnext
from tests.networks.definitions_ported import ported
from tests.networks.libraries import Reference, of_pytorchcv, of_timm, of_torchvision
from tests.networks.references_efficient import efficient
from tests.networks.references_mobile import mobile


def _with_narrow_head(name: str, inputs: int) -> Reference:
    """AlexNet's and VGG's hidden layers have up to 100 million weights, and are two plain linear layers."""

    def build() -> nn.Module:
        with torch.device("meta"):
            model = getattr(torchvision.models, name)(weights=None)
        widths = iter((inputs, 64, 64))
        layers = [nn.Linear(next(widths), 64) if isinstance(m, nn.Linear) else m for m in model.classifier]
        model.classifier = nn.Sequential(*layers)
        model.features.to_empty(device="cpu")
        return model

    return Reference("torchvision", build, {"hidden": 64, "num_classes": 64})


def _resnets() -> dict[str, list[Reference]]:
    """Torchvision's class builds every ResNet and ResNeXt; the others have some of them."""
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    found, two = {}, {"depths": (2, 2, 2, 2)}
    for name in list_models("resne*"):
        c = networks[name].config
        if c.small or name.startswith(("resnet50_", "resnet_")):
            continue
        block = Bottleneck if c.bottleneck else BasicBlock
        build = partial(ResNet, block, two["depths"], groups=c.groups, width_per_group=c.group_width)
        found[name] = [Reference("torchvision", build, two)]
    for name in ("resnet18", "resnet50", "resnext50_32x4d"):
        found[name].append(of_timm(name))
    found["resnet18"].append(of_pytorchcv("resnet", "resnet18", two))
    found["resnet50"].append(of_pytorchcv("resnet", "resnetbc26b", two))
    found["resnext50_32x4d"].append(of_pytorchcv("resnext", "resnext26_32x4d", two))
    for name in ("resnet20", "resnet56", "resnet110"):
        found[name] = [of_pytorchcv("resnet_cifar", f"{name}_cifar10")]
    for name in list_models("resnext29_*"):
        cardinality, _, width = name.removeprefix("resnext29_").removesuffix("d").partition("x")
        shape = {"cardinality": int(cardinality), "bottleneck_width": int(width), "num_classes": 10}
        ours = {"depths": (2, 2, 2)}
        found[name] = [of_pytorchcv("resnext_cifar", "get_resnext_cifar", ours, blocks=20, **shape)]
    shape = {"channels": [[16], [32], [64]], "init_block_channels": 16, "bottleneck": False}
    found["resnet_small"] = [of_pytorchcv("resnet_cifar", "CIFARResNet", num_classes=10, **shape)]
    return found


REFERENCES = {
    **_resnets(),
    "alexnet_owt": [_with_narrow_head("alexnet", 256 * 36)],
    "vgg16": [_with_narrow_head("vgg16", 512 * 49)],
    "vgg16_bn": [_with_narrow_head("vgg16_bn", 512 * 49)],
    "inception_v3": [
        of_torchvision("inception_v3", aux_logits=False, init_weights=False),
        of_timm("inception_v3"),
    ],
    **mobile(),
    "xception": [of_timm("legacy_xception")],
    "googlenet_bn": [of_torchvision("googlenet", {"aux": True}, aux_logits=True, init_weights=False)],
}
REFERENCES |= efficient()
for name, references in [*classic().items(), *ported().items()]:
    REFERENCES.setdefault(name, []).extend(references)
for name, (build, options) in DEFINITIONS.items():
    REFERENCES.setdefault(name, []).append(Reference("definition", build, options))
REFERENCES["oct_resnet50_a05"].append(Reference("definition (ResNeXt)", *octave_resnext()))
