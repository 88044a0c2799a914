"""Where a run is kept whose output is a URL: in a directory of this machine, published as it grows.

With several processes the first one holds the lease and publishes; the others read the same from copies of
their own, as on machines that share no disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from regroup.files.remote import address
from regroup.files.staging import fetched, staged
from regroup.training.config import TrainConfig
from regroup.training.directory import LOCK
from regroup.training.processes import Processes


@contextmanager
def placed(
    config: TrainConfig,
    processes: Processes,
    wait: bool,
    say: Callable[[str], object],
    leave: Callable[[], object],
) -> Iterator[TrainConfig]:
    """Give the config with a directory of this machine as its output, if that is a URL.

    All processes call it.

    Args:
        config: how to train.
        processes: that train.
        wait: whether to wait for another process that writes there.
        say: called with a line if one does.
        leave: called while it is waited for; what it raises ends the wait.

    Raises:
        CheckpointError: what is below the URL cannot be read, or something cannot be put there.
        LockedError: another process writes there, and `wait` is false.
        ConfigError: the output is no URL that can be had.
    """
    url = None if config.output is None else address(config.output)
    if url is None:
        yield config
        return
    with ExitStack() as stack:
        if processes.first:
            place = stack.enter_context(staged(url, LOCK, wait=wait, say=say, leave=leave))
            processes.agree(0)  # now that nobody else writes, the others read what is there
        else:
            processes.agree(0)
            place = stack.enter_context(fetched(Path(url)))
        processes.agree(0)  # and the first writes nothing before
        yield replace(config, output=place)
