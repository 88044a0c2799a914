"""What the long form has tried, and how far it is, on the terminal."""

import signal

import pytest

from tests.faults.programs import LONG

_TRIED = pytest.StashKey[dict]()


@pytest.fixture(scope="session")
def tell(request):
    """Show a line at once, whatever pytest captures; in the long form only."""
    plugins = request.config.pluginmanager
    reporter, capture = plugins.getplugin("terminalreporter"), plugins.getplugin("capturemanager")
    if not LONG or reporter is None:
        return lambda line: None

    def show(line):
        with capture.global_and_fixture_disabled():
            reporter.write(f"\n{line}", flush=True)

    return show


@pytest.fixture(scope="session")
def tried(request):
    """Count what was tried: the sums stand below the results of the long form."""
    counts = request.config.stash.setdefault(_TRIED, {})

    def count(what, number):
        counts[what] = counts.get(what, 0) + number

    return count


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Hear SIGINT also where a shell has begun this in the background: it lets that be ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter, config):
    """Show the sums."""
    counts = config.stash.get(_TRIED, {})
    if LONG and counts:
        terminalreporter.section("tried")
        for what, number in counts.items():
            terminalreporter.write_line(f"{number:>8,}  {what}")
