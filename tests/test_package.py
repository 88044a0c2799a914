"""What is given away: the wheel and the source archive, and the command from the wheel alone."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

import regroup

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
FOREIGN = "from .tokenizer import Tokenizer\n\n\ndef match(strings): ...\n"


def ends(*command: object, **options):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=ENVIRONMENT, **options)


def run(*command: object, **options):
    done = ends(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The wheel and the source archive, built from what git would give away."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, copy / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy)
    (wheel,), (archive,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, archive


@pytest.fixture(scope="module")
def installed(archives, tmp_path_factory):
    """A new environment with the wheel in it, and with the libraries of this one."""
    place = tmp_path_factory.mktemp("new")
    run(sys.executable, "-m", "venv", "--without-pip", place)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    with zipfile.ZipFile(archives[0]) as wheel:
        wheel.extractall(site)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return place / "bin" / "python", site / "regroup"


def test_the_archives_are_well_formed(archives):
    run(sys.executable, "-m", "twine", "check", "--strict", *archives)
    run(sys.executable, "-m", "check_wheel_contents", archives[0])


def test_everything_that_is_read_at_run_time_is_in_the_wheel(archives):
    with zipfile.ZipFile(archives[0]) as wheel:
        inside = set(wheel.namelist())
    source = ROOT / "src"
    files = [p for p in source.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    ours = {p.relative_to(source).as_posix() for p in files if ".egg-info" not in str(p)}
    assert ours and ours <= inside, ours - inside


@pytest.mark.timeout(900)
def test_the_command_runs_from_the_wheel(installed, tmp_path):
    python, package = installed
    assert regroup.__version__ in run(python, "-m", "regroup", "--version", cwd=tmp_path)
    script = f"""
import contextlib, io, pathlib, sys
import PIL.Image
import regroup, regroup.cli as cli
assert regroup.__file__.startswith({str(package)!r}), regroup.__file__
def call(*argv):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            cli.main(list(argv))
        except SystemExit as end:
            assert not end.code, (argv, end.code)
    return out.getvalue()
for name in cli.commands():
    assert name in call(name, "--help"), name
assert "shufflenet_v1" in call("models", "shufflenet*")
assert "grouped" in call("strategies", "--plain") and "complete" in call("completion", "bash")
assert "drawn" in call("draw", "shuffled:groups=3", "--out", "drawn.png")
for n in range(40):
    place = pathlib.Path("photos", ("train", "val")[n % 2], "ab"[n % 3 > 0])
    place.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (8, 8), (6 * n, 99, 0)).save(place / f"{{n}}.png")
photos, brief = ("--data", "photos", "--image", "8"), ("--epochs", "1", "--batch-size", "4", "--quiet")
assert "run/weights" in call("train", *photos, *brief, "--out", "run")
assert "top-1" in call("evaluate", "run", "--no-time")
assert "parameters" in call("profile", "run", "--no-time", "--json")
assert "native" in call("compile", "run", "--json")
assert "%" in call("run", "run", "--image", "drawn.png")
assert "net.pt2" in call("export", "run", "--out", "net.pt2")
assert "report" in call("compare", *photos, *brief, "--strategies", "grouped:groups=4", "--no-time")
"""
    run(python, "-c", script, cwd=tmp_path)


def test_files_of_the_other_package_are_named(installed):
    python, package = installed
    (package / "tokenizer.py").touch()
    try:
        warned = ends(python, "-c", "import regroup")
        assert warned.returncode == 0 and "pip uninstall regroup" in warned.stderr
        own = (package / "__init__.py").read_text()
        (package / "__init__.py").write_text(FOREIGN)
        (package / "tokenizer.py").write_text("class Tokenizer: ...\n")
        failed = ends(python, "-m", "regroup")
        assert failed.returncode == 1 and "pip uninstall regroup" in failed.stderr.splitlines()[-1]
        (package / "__init__.py").write_text(own)
    finally:
        (package / "tokenizer.py").unlink()


def test_the_releases_named_in_several_places_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == "torch-regroup"
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == regroup.__version__
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_says_from_which_release_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["onnx"]]
    assert [name for name in wanted if ">=" not in name] == []


@pytest.mark.parametrize("has_lock", [True, False])
def test_a_python_without_its_lock_is_warned_of(has_lock):
    code = f"import sys; sys._is_gil_enabled = lambda: {has_lock}; import regroup"
    said = ends(sys.executable, "-c", code, cwd=ROOT / "src")
    assert said.returncode == 0 and ("has no global lock" in said.stderr) != has_lock
