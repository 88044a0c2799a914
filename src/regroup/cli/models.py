"""List the networks: parameters, MACs, published accuracy, where both come from, paper."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
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
    """Print the networks that match; exit 1 if none does."""
    from regroup.networks import list_models, networks

    found = [networks[name] for name in list_models(options.pattern)]
    if options.json:
        print(json.dumps([described(network) for network in found], indent=2))
    elif options.plain:
        print("\n".join(network.name for network in found))
    elif found:
        _print_table(found)
    return 0 if found else 1


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
    from rich.table import Table

    from regroup.cli._table import show
    from regroup.networks import SOURCES
    from regroup.report import text

    table = Table(box=None, pad_edge=False)
    for name in ("network", "paper", "source", "image", "data"):
        table.add_column(name, no_wrap=True)
    for name in ("params", "MACs", "top-1 error", "top-5 error"):
        table.add_column(name, justify="right", no_wrap=True)
    letters = set()
    for network in found:
        claims = network.claims
        errors = [f"{e:.1f} %" if e is not None else "" for e in (claims.top1_error, claims.top5_error)]
        stated = claims.stated if claims.top1_error is not None else " "
        letters |= {claims.counted, stated} - {" "}
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
    show(table)
    legend = "\n".join(f"{letter}: {SOURCES[letter]}" for letter in sorted(letters))
    print(f"\n{len(found)} networks. 1 MAC = 2 FLOPs. Letters say where a figure comes from.\n{legend}")
