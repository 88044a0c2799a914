"""How commands end: exit statuses, streams that fail, errors nobody expected; one line each."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.table import Table

from regroup.cli import commands, main, models
from regroup.cli._table import show
from regroup.cli.profile import layer_table
from regroup.errors import ConfigError
from regroup.profiling.profile import profile

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
REGROUP = [sys.executable, "-m", "regroup"]
DEVICE_FULL = Path("/dev/full")


def call(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        main(list(map(str, argv)))
    return (exit.value.code, *capsys.readouterr())


def started(*argv, **streams):
    return subprocess.Popen([*REGROUP, *argv], env=ENVIRONMENT, text=True, **streams)


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        ([], 2),
        (["-h"], 0),
        (["--help"], 0),
        (["--version"], 0),
        (["nothing"], 2),
        (["models", "--none"], 2),
    ],
)
def test_help_and_wrong_use(argv, status, capsys):
    code, out, err = call(capsys, *argv)
    assert code == status
    shown = err if argv == ["nothing"] else out
    if "--version" not in argv and argv[-1:] != ["--none"]:
        assert all(name in shown for name in commands())
    assert len(err.splitlines()) == (status == 2 and bool(argv))


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from regroup.cli import commands, main\n"
        "def said(*arguments):\n"
        "    try: main([*arguments])\n"
        "    except SystemExit as exit: assert exit.code == 0\n"
        "said('--help'), said('--version')\n"
        "assert not {'torch', 'numpy', 'tyro', 'rich'} & set(sys.modules), sorted(sys.modules)\n"
        "for name in commands(): said(name, '--help')\n"
        "heavy = {'torch', 'torchvision', 'timm', 'numpy', 'scipy', 'PIL', 'matplotlib', 'llvmlite'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


ENDS = [
    (ConfigError("top", 0, "more"), 2, "regroup models: top=0: must be more\n"),
    (ConfigError("top", "\x1b[31m\n", "more"), 2, None),
    (KeyboardInterrupt(), 130, ""),
    (SystemExit(3), 3, ""),
    (SystemExit(None), 0, ""),
    (OSError(errno.ENOSPC, "No space left on device", "/a\nb"), 1, None),
    (OSError(errno.ENOSPC, "No space left on device"), 1, "regroup models: No space left on device\n"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "regroup models: Broken pipe\n"),
    (MemoryError(), 1, "regroup models: there is not enough memory (MemoryError)\n"),
    (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried\nx"), 1, None),
    (ZeroDivisionError("division by zero"), 1, None),
    (RecursionError("too deep\nsecond line \x1b[31m"), 1, None),
    (AssertionError(), 1, None),
]


@pytest.mark.parametrize(("error", "status", "line"), ENDS, ids=lambda value: repr(value)[:30])
def test_however_a_command_ends_there_is_one_line_and_a_status(error, status, line, capsys, monkeypatch):
    def run(options):
        print("work")
        raise error

    monkeypatch.setattr(models, "run", run)
    code, out, err = call(capsys, "models")
    assert (code, out) == (status, "work\n")
    if line is not None:
        assert err == line
    else:
        assert err.startswith("regroup models: ") and len(err.splitlines()) == 1 and err[:-1].isprintable()


def test_what_nobody_expected_is_written_down_and_shown_with_debug(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "run", lambda options: 1 / 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, _, err = call(capsys, "models", "a b")
    (report,) = tmp_path.iterdir()
    assert code == 1 and str(report) in err and "ZeroDivisionError: division by zero" in err
    text = report.read_text()
    assert "Traceback" in text and "regroup models 'a b'" in text and torch.__version__ in text
    code, _, err = call(capsys, "models", "--debug")
    assert code == 1 and "Traceback" in err and len([*tmp_path.iterdir()]) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert "--debug shows more" in call(capsys, "models")[2]


def test_with_debug_expected_errors_have_tracebacks_too(capsys):
    code, _, err = call(capsys, "profile", "no_such_network", "--debug")
    assert code == 2 and "Traceback" in err and err.splitlines()[-1].startswith("regroup profile: model=")


@pytest.mark.skipif(not DEVICE_FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["models", "--help"]])
def test_a_full_disk_costs_the_output_and_is_said(argv):
    with DEVICE_FULL.open("w") as full:
        ran = subprocess.run([*REGROUP, *argv], env=ENVIRONMENT, stdout=full, stderr=-1, text=True)
    assert ran.returncode == 1
    assert ran.stderr == "regroup: the output could not be written: No space left on device\n"


@pytest.mark.parametrize("argv", [["--help"], ["models"]])
def test_a_reader_that_leaves_is_no_failure_and_nothing_is_said(argv):
    with started(*argv, stdout=-1, stderr=-1) as process:
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == ("", 0)


@pytest.mark.parametrize("closed", [[0], [1], [2], [1, 2], [0, 1, 2]])
def test_closed_streams_are_no_failure(closed):
    redirections = " ".join(f"{number}>&-" for number in closed)
    command = f"{sys.executable} -m regroup --help {redirections}"
    ran = subprocess.run(command, shell=True, env=ENVIRONMENT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "") and bool(ran.stdout) == (1 not in closed)


@pytest.mark.skipif(not DEVICE_FULL.exists(), reason="there is no /dev/full here")
def test_messages_that_cannot_be_written_end_nothing():
    with DEVICE_FULL.open("w") as full:
        assert subprocess.run([*REGROUP, "nothing"], env=ENVIRONMENT, stderr=full).returncode == 2


def test_names_that_the_terminal_does_not_have_are_escaped():
    code = "from regroup.cli import main, models; models.run = lambda o: print('d\\u00fc'); main(['models'])"
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "d\\xfc\n", "")


def test_tables_are_whole_and_plain_in_a_pipe(capsys):
    table = Table(box=None)
    table.add_column("name", no_wrap=True)
    for name in ("[red]brackets[/red]", "[", "long" * 100, ":warning:"):
        table.add_row(name, style="bold")
    show(table)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [
        "name",
        "[red]brackets[/red]",
        "[",
        "long" * 100,
        ":warning:",
    ]


def test_names_of_layers_are_shown_as_they_are(capsys):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1))
    model.add_module("[red]x\x1b[31m", torch.nn.ReLU())
    show(layer_table(profile(model, torch.rand(1, 3, 8, 8), time=False), None))
    out = capsys.readouterr().out
    assert r"[red]x\x1b[31m" in out and "\x1b" not in out


PLUGINS = {
    "raises": ("import regroup\n\n1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
    "raises below": ("def f():\n    return {}['x']\nf()\n", "line 2: KeyError: 'x'"),
    "syntax": ("x = = 1\n", "line 1: SyntaxError"),
    "imports": ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    "exits": ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0"),
    "no text": ("\0", "must be a Python file without errors"),
}


@pytest.mark.parametrize("kind", PLUGINS)
@pytest.mark.parametrize("command", ["profile", "compile"])
def test_a_plugin_with_an_error_is_named_with_its_line(command, kind, capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGINS[kind][0])
    code, _, err = call(capsys, command, "resnet_small", "--plugin", path)
    assert code == 2 and len(err.splitlines()) == 1 and str(path) in err and PLUGINS[kind][1] in err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["profile", "resnet_small", "--device", "no_such"], "device='no_such': must be a device"),
        (["profile", "resnet_small", "--device", "meta"], "device='meta': must be a device"),
        (["profile", "resnet_small", "--image", 10**9], "image=1000000000: must be an int from 1 to 8192"),
        (
            ["compile", "vit_tiny_patch16_224", "--image", 32],
            "image=32: must be a size that vit_tiny_patch16_224 takes",
        ),
        (
            ["profile", "vit_tiny_patch16_224", "--image", 32],
            "image=32: must be a size that vit_tiny_patch16_224 takes",
        ),
        (["profile", "resnet_small", "--batch", 10**15], "batch=1000000000000000: must be an int from 1 to"),
        (["profile", "resnet_small", "--batch", 1 << 20, "--image", 8192], "there is not enough memory"),
    ],
)
def test_what_cannot_be_is_one_line(argv, says, capsys):
    code, out, err = call(capsys, *argv)
    assert (code, out) == (2 if "must be" in says else 1, "") and len(err.splitlines()) == 1 and says in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(capsys):
    code, _, err = call(capsys, "profile", "resnet_small", "--device", "cuda")
    assert code == 2 and len(err.splitlines()) == 1 and "device='cuda': must be a device" in err


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18", "resnet50"])
def test_pretrained_weights_without_a_connection_are_one_line(name, capsys, monkeypatch, tmp_path):
    def offline(*arguments, **options):
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setattr("socket.getaddrinfo", offline)
    monkeypatch.setattr("socket.socket.connect", offline)
    for variable in ("TORCH_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    for function in ("timm.create_model", "torchvision.models.get_model", "torchvision.models.get_weight"):
        monkeypatch.setattr(function, offline)
    code, _, err = call(capsys, "run", name, "--pretrained", "--image", tmp_path / "a.png")
    assert code == 1 and len(err.splitlines()) == 1
    assert ("no route to host" in err or "does not answer" in err) and "second line" not in err
