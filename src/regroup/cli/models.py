"""List the networks: parameters, MACs, published accuracy, where both come from, paper."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from rich.table import Table

    from regroup.networks import Network


@dataclass(frozen=True)
class Options:
    """Which networks to list, and how."""

    pattern: tyro.conf.Positional[str] = "*"
    """Shell pattern of the names; a bare word matches anywhere in a name."""
    plain: bool = False
    """Print the names alone, one a line."""
    json: bool = False
    """Print all that is claimed of each network as JSON."""


def run(options: Options) -> int:
    """Print the networks that match."""
    from regroup.networks import networks

    found = [networks[name] for name in networks.matching(options.pattern)]
    if options.json:
        print(json.dumps([described(network) for network in found], indent=2))
    elif options.plain:
        print("\n".join(network.name for network in found))
    else:
        _print_table(found)
    return 0


def described(network: Network) -> dict[str, Any]:
    """Return what is claimed of a network as plain data, its config included."""
    return {
        "name": network.name,
        **dataclasses.asdict(network.claims),
        "paper": network.paper,
        "source": network.source,
        "pretrained": network.pretrained,
        "config": dataclasses.asdict(network.config),
    }


def _print_table(found: list[Network]) -> None:
    from regroup.cli._table import say, show
    from regroup.networks import SOURCES

    show(network_table(found), ("source", "data", "paper"))
    claims = [network.claims for network in found]
    letters = {each.counted for each in claims} | {
        each.stated for each in claims if each.top1_error is not None
    }
    say(f"\n{len(found)} networks. 1 MAC = 2 FLOPs. Letters say where a figure comes from.")
    for letter in sorted(letters - {" "}):
        say(f"{letter}: {SOURCES[letter]}")


def network_table(found: list[Network]) -> Table:
    """Return a row for each network, with its published figures."""
    from rich.table import Table

    from regroup.report import text

    table = Table(box=None, pad_edge=False)
    for name in ("network", "paper", "source", "image", "data"):
        table.add_column(name, no_wrap=True)
    for name in ("params", "MACs", "top-1 error", "top-5 error"):
        table.add_column(name, justify="right", no_wrap=True)
    for network in found:
        claims = network.claims
        errors = [f"{e:.1f} %" if e is not None else "" for e in (claims.top1_error, claims.top5_error)]
        stated = claims.stated if claims.top1_error is not None else " "
        table.add_row(
            network.name,
            network.paper,
            network.source,
            f"{claims.size[0]} x {claims.size[1]}",
            claims.data,
            text.count(claims.parameters),
            f"{text.count(claims.mega_macs * 1e6)} {claims.counted}",
            f"{errors[0]} {stated}",
            errors[1],
        )
    return table
