"""One shadow of every network, built once: shapes without memory or time."""

from __future__ import annotations

from collections import Counter

import pytest

from regroup.networks import build, list_models, networks
from regroup.networks.backbone import Backbone
from regroup.ops.shapes import without_numbers


@pytest.fixture(scope="session", params=list_models())
def shadow(request: pytest.FixtureRequest) -> Backbone:
    """A network on the meta device in eval mode. Tests that change it take a `twin`."""
    with without_numbers():
        return build(networks[request.param]).eval()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say of how many networks the claims were recomputed, and with what the networks were compared."""
    passed = [report.nodeid for report in terminalreporter.stats.get("passed", [])]
    claims = [name for name in passed if "::test_parameters_and_macs_are_as_published[" in name]
    pairs = [
        name.rpartition("[")[2][:-1].rpartition("-") for name in passed if "::test_network_equals_" in name
    ]
    if claims:
        terminalreporter.write_line(f"networks: claims of {len(claims)} recomputed")
    if pairs:
        whose = ", ".join(f"{count} {name}" for name, count in Counter(p[2] for p in pairs).most_common())
        compared = len({name for name, *_ in pairs})
        terminalreporter.write_line(f"networks: {compared} equal to their references ({whose})")
