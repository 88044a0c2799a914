"""Other implementations of the networks with interleaved, mixed, condensed and octave convolutions."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from tests.networks.libraries import Reference, of_pytorchcv, of_timm


def efficient() -> dict[str, list[Reference]]:
    """pytorchcv ends the octaves one convolution later than the paper."""
    found = {"oct_resnet50_a05": [of_pytorchcv("octresnet", "octresnet50b_ad2", {"late": True})]}
    for ours, theirs in (("100", "w1"), ("075", "w3d4"), ("050", "wd2"), ("025", "wd4")):
        found[f"igcv3_{ours}"] = [of_pytorchcv("igcv3", f"igcv3_{theirs}")]
    for size in "sml":
        name = f"mixnet_{size}"
        found[name] = [of_timm(name), of_pytorchcv("mixnet", name)]
    same = of_timm("tf_mixnet_s", {"padding": "same", "eps": 1e-3})
    found["mixnet_s"].append(dataclasses.replace(same, whose="timm (TensorFlow)"))
    found["mixnet_xl"] = [of_timm("mixnet_xl")]
    for groups in (4, 8):
        found[f"condensenet_74_g{groups}"] = [_chosen(f"condensenet74_c{groups}_g{groups}")]
    return found


def _chosen(name: str) -> Reference:
    """pytorchcv's CondenseNet, whose new indices are all 0, with random ones."""
    reference = of_pytorchcv("condensenet", name)

    def build() -> nn.Module:
        model, generator = reference.build(), torch.Generator().manual_seed(0)
        for key, index in model.state_dict().items():
            if key.endswith("index"):
                inputs = len(index) * 2 if key == "output.index" else len(index)
                index.copy_(torch.randint(inputs, index.shape, generator=generator))
        return model

    return dataclasses.replace(reference, build=build)
