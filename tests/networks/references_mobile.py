"""Other people's SqueezeNets, MobileNets and ShuffleNets."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from regroup.networks import list_models, networks
from tests.networks.libraries import Reference, of_pytorchcv, of_timm, of_torchvision


def mobile() -> dict[str, list[Reference]]:
    families = (_squeezenet(), _mobilenet_v1(), _mobilenet_v2(), _mobilenet_v3(), _shufflenet())
    return {name: references for family in families for name, references in family.items()}


def _squeezenet() -> dict[str, list[Reference]]:
    return {
        f"squeezenet1_{i}": [of_torchvision(f"squeezenet1_{i}"), _adaptive_squeezenet(f"squeezenet_v1_{i}")]
        for i in (0, 1)
    }


def _adaptive_squeezenet(name: str) -> Reference:
    reference = of_pytorchcv("squeezenet", name)

    def build() -> nn.Module:
        model = reference.build()
        model.output.final_pool = nn.AdaptiveAvgPool2d(1)
        return model

    return replace(reference, build=build)


def _shufflenet() -> dict[str, list[Reference]]:
    """pytorchcv builds those whose groups divide a quarter of the channels; its classifier has a bias."""
    from pytorchcv.models.shufflenet import ShuffleNet

    found: dict[str, list[Reference]] = {}
    for name in list_models("shufflenet_v1*"):
        c = networks[name].config
        if c.order == "paper" and not any(width // 4 % c.groups for width in c.widths[1:]):

            def build(c=c) -> nn.Module:
                channels = [[width] * 2 for width in c.widths[1:]]
                model = ShuffleNet(channels, c.widths[0], c.groups)
                model.features.final_pool = nn.AdaptiveAvgPool2d(1)
                return model

            found[name] = [Reference("pytorchcv", build, {"depths": (2, 2, 2), "bias": True})]
    for width, theirs in (("050", "x0_5"), ("100", "x1_0"), ("150", "x1_5"), ("200", "x2_0")):
        found[f"shufflenet_v2_{width}"] = [of_torchvision(f"shufflenet_v2_{theirs}")]
    found["shufflenet_v2_100"].append(of_pytorchcv("shufflenetv2b", "shufflenetv2b_w1", {"uneven": True}))
    return found


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
    same = of_timm("tf_mobilenetv3_large_100", {"padding": "same"})
    found["mobilenet_v3_large_100"].append(replace(same, whose="timm (TensorFlow)"))
    return found
