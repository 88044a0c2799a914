"""Other implementations of the networks with interleaved, mixed, condensed and octave convolutions."""

from __future__ import annotations

from tests.networks.libraries import Reference, of_pytorchcv, of_timm


def efficient() -> dict[str, list[Reference]]:
    """pytorchcv ends the octaves one convolution later than the paper."""
    found = {"oct_resnet50_a05": [of_pytorchcv("octresnet", "octresnet50b_ad2", {"late": True})]}
    for ours, theirs in (("100", "w1"), ("075", "w3d4"), ("050", "wd2"), ("025", "wd4")):
        found[f"igcv3_{ours}"] = [of_pytorchcv("igcv3", f"igcv3_{theirs}")]
    for size in "sml":
        name = f"mixnet_{size}"
        found[name] = [of_timm(name), of_pytorchcv("mixnet", name)]
    return found
