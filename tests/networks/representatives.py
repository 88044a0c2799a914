"""One network for each kind of backbone: the lightest, small enough to run."""

from __future__ import annotations

from regroup.networks import Network, list_models, networks

LARGEST = 40_000
"""Million MACs. A larger network is built by the registry's sweeps, and compared narrowed."""

NARROW = (
    ("hidden", 64),
    ("middle", (16, 32, 64, 128)),  # G-ResNeXt's widths
    ("middle", 1),  # Xception's modules
    ("entry", (64, 128, 256)),
    ("exit", (256, 384, 512)),
    ("halves", (32, 64, 128, 256)),
)


def representatives() -> list[str]:
    """Return the name with the fewest MACs for each combination of backbone and yes-or-no options."""
    lightest: dict[object, Network] = {}
    for name in list_models():
        network = networks[name]
        if network.claims.mega_macs > LARGEST:
            continue
        flags = tuple(v for v in vars(network.config).values() if isinstance(v, (bool, str)))
        kind = (network.build, flags)
        if kind not in lightest or network.claims.mega_macs < lightest[kind].claims.mega_macs:
            lightest[kind] = network
    return sorted(network.name for network in lightest.values())


def side(name: str, least: int = 64) -> int:
    """Return a small image side whose last map is more than one pixel: norms of few numbers tell little."""
    network = networks[name]
    wanted = 32 if network.claims.size[0] < 64 else least
    return wanted if network.build.min_size <= wanted else network.build.min_size + 32


def small(name: str, **options: object) -> dict[str, object]:
    """Return options that make a network light: narrow layers, few blocks and classes, no dropout."""
    config = networks[name].config
    light = {key: value for key, value in NARROW if type(getattr(config, key, None)) is type(value)}
    return {"num_classes": 4, "drop_rate": 0.0, **light, **shallow(name), **options}


def shallow(name: str) -> dict[str, object]:
    """Return options for one block in each stage, and one more in the second, whose shape it keeps."""
    config = networks[name].config
    published = getattr(config, "depths", ())
    depths = tuple(min(depth, 2 if stage == 1 else 1) for stage, depth in enumerate(published))
    if hasattr(config, "structure"):  # ScaleNets say each block's outputs
        return {"structure": tuple(s[:n] for s, n in zip(config.structure, depths, strict=True))}
    each = ("kernels", "scales") if hasattr(config, "kernels") else ()  # of each block, found by search
    return {key: getattr(config, key)[: sum(depths)] for key in each} | ({"depths": depths} if depths else {})
