"""One network for each kind of backbone: the lightest, small enough to run."""

from __future__ import annotations

from regroup.networks import Network, list_models, networks

LARGEST = 40_000
"""Million MACs. A larger network is built by the registry's sweeps, and compared narrowed."""


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
    """Return a small image side that the network takes."""
    network = networks[name]
    wanted = 32 if network.claims.size[0] < 64 else least
    return max(wanted, network.build.min_size)


def small(name: str, **options: object) -> dict[str, object]:
    """Return options that make a network light: narrow layers, few blocks and classes, no dropout."""
    narrow = {"hidden": 64, "middle": (16, 32, 64, 128)}
    config = networks[name].config
    light = {key: value for key, value in narrow.items() if type(getattr(config, key, None)) is type(value)}
    if sum(getattr(config, "depths", ())) > 40:
        light["depths"] = (1, 2, *[1] * (len(config.depths) - 2))
    return {"num_classes": 4, "drop_rate": 0.0, **light, **options}
