"""Other people's MobileNets and ShuffleNets."""

from __future__ import annotations

from dataclasses import replace

from regroup.networks import list_models, networks
from tests.networks.libraries import Reference, of_pytorchcv, of_timm, of_torchvision


def mobile() -> dict[str, list[Reference]]:
    return {**_mobilenet_v1(), **_mobilenet_v2(), **_mobilenet_v3()}


def _mobilenet_v1() -> dict[str, list[Reference]]:
    found = {}
    for width, theirs in (("100", "w1"), ("075", "w3d4"), ("050", "wd2"), ("025", "wd4")):
        reference = of_pytorchcv("mobilenet", f"mobilenet_{theirs}", {"act": "relu"})
        for name in list_models(f"mobilenet_v1_{width}*"):
            found[name] = [reference]
    found["mobilenet_v1_100"].append(of_timm("mobilenetv1_100"))
    return found


def _mobilenet_v2() -> dict[str, list[Reference]]:
    found = {}
    for name in list_models("mobilenet_v2*"):
        found[name] = [of_torchvision("mobilenet_v2", width_mult=networks[name].config.width)]
    for width in ("140", "100", "075", "050", "035"):
        found[f"mobilenet_v2_{width}"].append(of_timm(f"mobilenetv2_{width}"))
    no_bias = replace(of_pytorchcv("mobilenetv2", "mobilenetv2b_w1"), lacks=("classifier.bias",))
    found["mobilenet_v2_100"].append(no_bias)
    return found


def _mobilenet_v3() -> dict[str, list[Reference]]:
    found = {}
    for size in ("large", "small"):
        name, eps = f"mobilenet_v3_{size}", {"eps": 1e-5}
        found[f"{name}_100"] = [of_torchvision(name), of_timm(f"mobilenetv3_{size}_100", eps)]
        found[f"{name}_075"] = [of_timm(f"mobilenetv3_{size}_075", eps)]
        found[f"{name}_minimal"] = [of_timm(f"tf_mobilenetv3_{size}_minimal_100", pad_type="")]
    return found
