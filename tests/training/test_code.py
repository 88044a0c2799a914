"""The identity of a run names the code that is loaded, whatever has become of its file: or it is an error."""

import importlib
import itertools
import json
import os
import subprocess
import sys
import types
from code import InteractiveInterpreter

import pytest
import torch

from regroup.errors import ConfigError
from regroup.files.imports import FINDER
from regroup.loading.plugins import load_plugins
from regroup.training import code, loaded
from regroup.training.code import sources
from tests.faults.programs import ROOT

TIMES = itertools.count(1_700_000_000, 10)


def write(path, source):
    """Write a file as if it were another time than all others."""
    path.write_text(source)
    os.utime(path, (time := next(TIMES), time))


def mine(place, source, name="mine_of_code"):
    """Import a module anew."""
    write(place / f"{name}.py", source)
    sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return importlib.import_module(name)


NET = "class Net:\n    scale = 2\n    def forward(self, x):\n        return 2 * x\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", [each for each in sys.meta_path if each is not FINDER])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    yield tmp_path
    sys.modules.pop("mine_of_code", None)


def test_a_file_that_was_changed_after_its_import_is_one_line_that_says_what_to_do(place):
    module = mine(place, NET)
    for other in (NET.replace("return 2", "return 3"), NET + "    def more(self): pass\n", "class Net(:\n"):
        write(place / "mine_of_code.py", other)
        loaded._LOADS.clear()
        with pytest.raises(ConfigError, match="changed after it was imported: start anew, or load it again"):
            sources([module.Net])
    write(place / "mine_of_code.py", NET)
    assert list(sources([module.Net])) == ["mine_of_code.py"]


def test_a_file_that_is_changed_while_a_run_goes_on_stays_what_it_was(place):
    module = mine(place, NET)
    before = sources([module.Net])
    for other in (NET.replace("2", "3"), "class", None):
        path = place / "mine_of_code.py"
        path.unlink() if other is None else write(path, other)
        assert sources([module.Net]) == before
    assert sources([mine(place, NET.replace("2", "3")).Net]) != before


def test_a_network_of_before_its_module_was_loaded_again_is_an_error(place):
    old = mine(place, NET).Net
    mine(place, NET.replace("return 2", "return 3"))
    with pytest.raises(ConfigError, match="make the model anew"):
        sources([old])


def test_old_byte_code_of_an_imported_file_is_an_error_and_names_it(place):
    first = mine(place, NET)
    path, time = place / "mine_of_code.py", 1_700_000_000
    os.utime(path, (time, time))
    first = mine(place, NET)
    os.utime(path, (time, time))
    first = importlib.reload(first)
    path.write_text(NET.replace("2", "3"))
    os.utime(path, (time, time))
    del sys.modules["mine_of_code"]
    stale = importlib.import_module("mine_of_code")
    assert stale.Net.scale == 2, "Python would no longer do this"
    with pytest.raises(ConfigError, match=r"older byte code of it: remove .*pyc and start anew"):
        sources([stale.Net])


def test_what_a_plugin_imports_is_run_from_its_source_too(place):
    helper, plugin, time = place / "mine_of_code.py", place / "plugin.py", 1_700_000_000
    plugin.write_text("import mine_of_code\nclass Own(mine_of_code.Net): pass\n")
    found = set()
    for scale in (2, 3, 4):
        helper.write_text(NET.replace("2", str(scale)))
        os.utime(helper, (time, time))
        sys.modules.pop("mine_of_code", None)
        (module,) = load_plugins([plugin])
        assert module.Own.scale == scale
        found.add(json.dumps(sources([module.Own])))
    assert len(found) == 3 and not list(place.rglob("mine_of_code*.pyc"))


PUT = {
    "a constant": lambda m: setattr(m, "SCALE", 3),
    "an entry of a table": lambda m: m.TABLE.update(a=3),
    "a function": lambda m: setattr(m, "act", lambda x: 3 * x),
    "another function": lambda m: setattr(m, "act", lambda x: 4 * x),
    "a library's function": lambda m: setattr(m, "act", json.dumps),
    "a method": lambda m: setattr(m.Net, "forward", lambda self, x: 3 * x),
    "a class's constant": lambda m: setattr(m.Net, "scale", 3),
    "a default": lambda m: setattr(m.act, "__defaults__", (3,)),
    "code": lambda m: setattr(m.act, "__code__", (lambda x, k: x + k).__code__),
    "a class": lambda m: setattr(m, "Net", type("Net", (m.Net,), {})),
}


def test_what_a_program_puts_into_a_module_counts(place):
    source = "SCALE = 2\nTABLE = {'a': 2}\ndef act(x, k=2):\n    return k * x\n" + NET
    found = {}
    for name, put in {"nothing": lambda m: None, **PUT}.items():
        module = mine(place, source)
        put(module)
        one = json.dumps(sources([module]))
        assert one not in found, f"{name} is taken for {found[one]}"
        found[one] = name
    assert json.dumps(sources([mine(place, source)])) in found


def test_what_counts_calls_or_keeps_results_stays_one_run(place):
    source = "calls = 0\ncache = {}\ndef act(x):\n    global calls\n    calls += 1\n    cache[x] = 2 * x\n"
    module = mine(place, source)
    before = sources([module])
    module.act(3)
    assert module.calls == 1 and sources([module]) == before


def test_generated_methods_and_enumerations_are_what_their_file_says(place):
    source = (
        "import dataclasses, enum, typing\n@dataclasses.dataclass(frozen=True)\nclass A:\n    x: int = 3\n"
    )
    source += "class B(typing.NamedTuple):\n    y: int = 4\nclass C(enum.Enum):\n    Z = 5\n"
    assert "+" not in sources([mine(place, source)])["mine_of_code.py"]


class Unasked:
    """What is there only within a request, as of web frameworks."""

    @property
    def __class__(self):
        raise RuntimeError("outside of a request")


def test_a_stand_in_that_raises_when_it_is_asked_is_passed_over(place):
    module = mine(place, NET)
    before = sources([module.Net])
    module.request = Unasked()
    assert sources([module.Net]) == before


def test_a_module_without_a_file_counts_by_its_code():
    found = set()
    for factor in (2, 3):
        module = sys.modules["made_of_code"] = types.ModuleType("made_of_code")
        source = f"def helper(x):\n    return {factor} * x\n"
        source += "class Net:\n    def f(self, x):\n        return helper(x)\n"
        InteractiveInterpreter(vars(module)).runcode(compile(source, "<typed>", "exec"))
        found.add(json.dumps(sources([module.Net])))
        assert json.dumps(sources([module.Net])) in found
    del sys.modules["made_of_code"]
    assert len(found) == 2
    assert sorted(json.loads(found.pop())) == [
        "made_of_code.Net",
        "made_of_code.Net.f",
        "made_of_code.helper",
    ]


CELL = """
import functools, types
from torch import nn
import numpy as np
FACTOR, SIZES, CONFIG, SPACE = 2, [3, 4], {"width": 5}, types.SimpleNamespace(depth=6)
WEIGHTS = np.arange(7)
def helper(x, k=8):
    return x + k + FACTOR
class Block(nn.Module):
    scale = 9
    def forward(self, x):
        return helper(x) * 10 + len(SIZES)
class Setting:
    def __init__(self, value):
        self.value = value
SETTING = Setting(11)
class Net(Block):
    @property
    def wide(self):
        return CONFIG["width"] + SPACE.depth + SETTING.value
    @functools.cached_property
    def deep(self):
        return [n * 12 for n in WEIGHTS]
def made():
    net = Net()
    net.act = lambda x: 13 * x
    net.partial = functools.partial(helper, k=14)
    net.setting = Setting(np.int64(15))
    net.register_forward_hook(lambda module, x, y: 16 * y)
    return net
UNUSED = 17
"""
"""Numbers from 2 to 16 decide what a network in a notebook computes; 17 does not."""


def test_a_notebook_is_what_has_been_run_of_it(tmp_path):
    """In a process of its own, whose `__main__` it is: each number changed gives another identity."""
    program = tmp_path / "notebook.py"
    program.write_text(
        "import json, re, sys\nfrom code import InteractiveInterpreter\n"
        "from regroup.training.identity import code_of, structure\n"
        "from regroup.training.code import sources\nfrom tests.training.cases import data\n"
        "found = []\nfor n in [0, 0, *range(2, 18)]:\n"
        "    cell = re.sub(rf'\\b{n}\\b', '1', sys.argv[1]) if n else sys.argv[1]\n"
        "    InteractiveInterpreter(globals()).runcode(compile(cell, '<cell>', 'exec'))\n"
        "    found.append(json.dumps([sources(code_of(made(), data=data(4))), structure(made())]))\n"
        "print(json.dumps(found))\n"
    )
    path = os.pathsep.join([str(ROOT), *sys.path])
    how = {"capture_output": True, "text": True, "check": False, "env": {**os.environ, "PYTHONPATH": path}}
    ran = subprocess.run([sys.executable, program, CELL], **how)
    assert ran.returncode == 0, ran.stderr
    once, again, *others = json.loads(ran.stdout)
    *others, unused = others
    assert once == again == unused
    assert len({once, *others}) == 16


def test_another_regroup_installed_meanwhile_is_an_error(tmp_path, monkeypatch):
    """Its files are those of the new one, and what runs is the old one."""
    importlib.import_module("regroup.spec")
    (tmp_path / "spec.py").write_bytes((code._HOME / "spec.py").read_bytes() + b"\nNEW = 2\n")
    monkeypatch.setattr(code, "_HOME", tmp_path)
    there = {"spec.py": (tmp_path / "spec.py").read_bytes()}
    monkeypatch.setattr(loaded, "_read", lambda path: there.get(path.name))
    monkeypatch.setattr(loaded, "BEGAN", 0.0)
    monkeypatch.delitem(loaded._LOADS, "regroup.spec", raising=False)
    with pytest.raises(ConfigError, match="must be what is loaded"):
        code.own_digest.__wrapped__(("spec.py",))


def test_the_release_of_a_package_is_that_of_the_one_that_is_loaded(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "1.2.3+cpu")
    assert code.packages([torch.nn.Linear])["torch"] == "1.2.3"
