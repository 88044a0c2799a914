"""SIGTERM and SIGINT: save, leave soon, with an exit code that says why; the second is obeyed at once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch.nn.modules.module import register_module_forward_pre_hook

from regroup.training import train
from regroup.training.checkpoint import latest_valid, list_checkpoints, load_checkpoint
from regroup.training.directory import Record
from tests.training.cases import built, config, data, equal

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def command(output, *more):
    """The arguments of a run that would take many hours."""
    arguments = ["regroup", "train", "--epochs", "100000", "--batch-size", "256", "--display", "quiet"]
    arguments += ["--recovery-interval", "1"]
    return ["-m", *arguments, "--output", str(output), *more]


@contextmanager
def started(arguments, output):
    """Start Python with `arguments`, and wait until it has written a checkpoint."""
    errors = output.with_name("stderr")
    with errors.open("w") as stderr:
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=ENVIRONMENT, stderr=stderr)
    try:
        while not list_checkpoints(output):
            assert process.poll() is None, errors.read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("number", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_saves_within_the_epoch_and_the_run_goes_on_from_there(number, end, tmp_path):
    steps = []

    def count(module, inputs):
        if module is model[0]:
            steps.append(module.training)
            if sum(steps) == 9:
                os.kill(os.getpid(), number)

    model, whole, resumed = built(), built(), built()
    # a hook of all modules, for one of the network's own would be part of the run that is resumed
    with register_module_forward_pre_hook(count), pytest.raises(end) as caught:
        train(model, data(), config(output=tmp_path))
    assert end is KeyboardInterrupt or caught.value.code == 143
    assert (
        load_checkpoint(latest_valid(tmp_path)[0])["training"]["step"] == 9
    )  # the fourth of the epoch's six
    train(whole, data(), config())
    train(resumed, data(), config(output=tmp_path, resume=True))
    assert equal(whole, resumed)


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """Where runs of the command were disturbed, and how each ended."""
    directory = tmp_path_factory.mktemp("disturbed")
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.faults.signals", str(directory)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return directory, json.loads(ran.stdout)


@pytest.mark.parametrize(("how", "status"), [("interrupted", 130), ("hung-up", 129)])
def test_ctrl_c_and_a_lost_terminal_end_the_command_soon_and_say_how_to_go_on(how, status, disturbed):
    directory, ends = disturbed
    run = directory / how / "run"
    assert ends[how] == status
    assert f"to go on: regroup train --resume {run}" in (directory / how / "stderr").read_text()
    assert latest_valid(run)[1] == []
    assert not list(run.glob(".*"))


def test_work_does_not_end_because_nobody_looks(disturbed):
    directory, ends = disturbed
    first, status = ends["unseen"]
    assert first.startswith("epoch 1/3") and status == 0
    output = directory / "unseen" / "run"
    assert (output / "weights" / "manifest.json").exists()
    assert len((output / "log.jsonl").read_text().splitlines()) == 3


def test_a_second_signal_is_obeyed_at_once():
    program = (
        "import os, signal, time; from regroup.training.interruption import Interruption\n"
        "with Interruption() as interruption:\n"
        "    os.kill(os.getpid(), signal.SIGTERM); assert interruption.signal == signal.SIGTERM\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == -signal.SIGINT


def test_handlers_are_put_back():
    from regroup.training.interruption import Interruption

    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_two_processes_under_torchrun_stop_together(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    output = tmp_path / "run"
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    with started([*torchrun, *command(output)], output) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) != 0
    training = load_checkpoint(latest_valid(output)[0])["training"]
    assert Record.read(output).identity.fields["processes"] == 2 and training["step"] > 0
