"""What the design promises of the code itself: floors, sizes, documentation, words."""

import ast
import doctest
import importlib
import inspect
import json
import pkgutil
import re
import statistics
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import regroup

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "regroup"
FILES = sorted(SOURCE.rglob("*.py"))


@cache
def trees():
    """Return what is written in each file; every worker imports this file, and one needs them."""
    return {path: ast.parse(path.read_text()) for path in FILES}


@cache
def functions():
    return [
        (path, node)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def lines(node):
    return node.end_lineno - node.lineno + 1


def place(path, node):
    return f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def test_the_floors_hold():
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_no_modules_import_each_other_in_a_circle():
    graph = grimp.build_graph("regroup", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the modules of a circle


def test_files_are_short():
    limits = {"networks": 250, "kernels": 350}
    long = {}
    for path in FILES:
        count = len(path.read_text().splitlines())
        if count > limits.get(path.relative_to(SOURCE).parts[0], 400):
            long[str(path.relative_to(ROOT))] = count
    assert not long


def test_the_median_network_file_is_short():
    """Files with a family are the networks'; what they share and foreign layouts have files of their own."""
    texts = [path.read_text() for path in (SOURCE / "networks").glob("*.py")]
    assert statistics.median(len(t.splitlines()) for t in texts if "\nfamily = " in t) < 130


def test_functions_fit_on_a_screen():
    assert not [place(p, f) for p, f in functions() if lines(f) > 80]
    assert statistics.median(lines(f) for _, f in functions()) <= 12


def test_functions_take_few_parameters():
    def count(function):
        arguments = function.args
        names = [a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
        return len([n for n in names if n not in ("self", "cls")])

    assert not [place(p, f) for p, f in functions() if count(f) > 9]


def public(tree):
    """Yield public functions, classes and their public methods; what is inside functions is private."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                        yield item


def test_every_public_name_is_documented_and_every_module_says_what_it_is():
    """A method that overrides a documented one is documented by that, as `help` shows it."""
    missing = [str(p.relative_to(ROOT)) for p, t in trees().items() if not ast.get_docstring(t)]
    for path, tree in trees().items():
        if path.stem == "__main__":
            continue
        module = importlib.import_module(".".join(path.relative_to(SOURCE.parent).with_suffix("").parts))
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                thing = getattr(module, node.name)
                methods = [n for n in getattr(node, "body", []) if isinstance(n, ast.FunctionDef)]
                if not ast.get_docstring(node):
                    missing.append(place(path, node))
                elif isinstance(node, ast.ClassDef):
                    named = [m for m in methods if not m.name.startswith("_")]
                    missing += [place(path, m) for m in named if not inspect.getdoc(getattr(thing, m.name))]
    assert not missing


def test_every_public_function_is_typed():
    untyped = []
    for path, tree in trees().items():
        for node in public(tree):
            if isinstance(node, ast.FunctionDef):
                arguments = [a for a in node.args.args + node.args.kwonlyargs if a.arg not in ("self", "cls")]
                if node.returns is None or any(a.annotation is None for a in arguments):
                    untyped.append(place(path, node))
    assert not untyped


def test_nothing_is_pickled_or_evaluated():
    forbidden = re.compile(
        r"import pickle|(?<![\w.])torch\.save\(|(?<![\w.])eval\(|(?<![\w.])exec\(|yaml\.load"
        r"|torch\.load\((?![^)]*weights_only=True)"
    )
    found = [
        f"{path.relative_to(ROOT)}:{i}: {line.strip()}"
        for path in FILES
        for i, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line)
    ]
    assert not found


def test_caches_in_memory_are_bounded():
    """What is remembered for each argument is remembered for so many: processes run for weeks."""
    unbounded = []
    for path, function in functions():
        arguments = function.args
        names = [a.arg for a in arguments.posonlyargs + arguments.args + arguments.kwonlyargs]
        bounded = not set(names) - {"cls"} and not arguments.vararg and not arguments.kwarg
        for decorator in map(ast.unparse, function.decorator_list):
            kind = decorator.removeprefix("functools.")
            if not bounded and (kind in ("cache", "lru_cache", "lru_cache()") or "maxsize=None" in kind):
                unbounded.append(place(path, function))
    assert not unbounded


def test_no_tolerance_is_tuned():
    found = []
    for path in [*FILES, *(ROOT / "tests").rglob("*.py")]:
        if path != Path(__file__):
            found += [
                f"{path.relative_to(ROOT)}: {m}"
                for m in re.findall(r"\b[ar]tol\s*=[^,)\n]*", path.read_text())
            ]
    # zero tolerances are exact, not tuned
    assert not [f for f in found if not re.search(r"=\s*0(\.0*)?$", f)]


def test_importing_regroup_is_light():
    heavy = [
        "timm",
        "torchvision",
        "matplotlib",
        "sklearn",
        "llvmlite",
        "rich",
        "tyro",
        "scipy",
        "jinja2",
        "PIL",
    ]
    code = f"import sys, regroup, json; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == []


def test_every_public_name_can_be_imported():
    for name in regroup.__all__:
        assert getattr(regroup, name) is not None, name


def all_modules():
    return sorted(
        m.name for m in pkgutil.walk_packages([str(SOURCE)], "regroup.") if "__main__" not in m.name
    )


@pytest.mark.parametrize("name", all_modules())
def test_examples_in_docstrings_run(name):
    import torch
    import torchvision
    from torch import nn

    module = importlib.import_module(name)
    context = {"torch": torch, "nn": nn, "torchvision": torchvision, "regroup": regroup}
    context |= {k: v for k, v in vars(importlib.import_module("regroup.errors")).items() if k[0] != "_"}
    context |= {k: v for k, v in vars(module).items() if not k.startswith("__")}
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(module, extraglobs=context, optionflags=flags)
    assert result.failed == 0


def test_the_tree_in_the_readme_is_true():
    readme = (ROOT / "README.md").read_text()
    tree = re.search(r"```text\n(src/regroup/.*?)```", readme, re.DOTALL)
    assert tree, "README.md has no tree of src/regroup/"
    named = set(re.findall(r"^  (\w+(?:/|\.py))", tree.group(1), re.MULTILINE))
    there = {p.name + "/" for p in SOURCE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    there |= {p.name for p in SOURCE.glob("*.py") if not p.name.startswith("__")}
    assert named == there


@pytest.mark.parametrize("name", ["DESIGN.md", "CONTRIBUTING.md", "README.md", "SECURITY.md"])
def test_what_the_documents_name_is_there(name):
    """Files, folders and targets of make; a path may begin at any folder, as it does among rooms."""
    text = (ROOT / name).read_text()
    named = set(re.findall(r"`([\w.-]+/[\w./-]*|[\w-]+\.(?:py|md|json))`", text))
    named |= set(re.findall(r"\]\(((?!https?:)[^)#]+)", text))
    there = [
        f"{path}/" for folder in ("src", "docs", "tests", "examples") for path in (ROOT / folder).rglob("*")
    ]
    there += [f"/{path.name}/" for path in ROOT.iterdir()]
    missing = {path for path in named if not any(f"/{path.strip('/')}/" in one for one in there)}
    assert missing <= {"runs/digits", "report/index.html"}
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.M)) <= targets


def test_the_floors_in_the_design_are_those_that_are_held():
    drawn = re.search(r"## Floors.*?```\n(.*?)```", (ROOT / "DESIGN.md").read_text(), re.DOTALL)
    assert drawn
    rooms = [re.findall(r"\b([a-z_]+)(?:/|\.py)(?=\s|$)", line) for line in drawn[1].splitlines()]
    held = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    assert [sorted(r) for r in rooms] == [sorted(layer.split(" | ")) for layer in held["layers"]]


def test_the_examples_on_the_pages_run():
    """Programs one by one; what a page shows of a session, as one session that prints what it says."""
    pages = [ROOT / "README.md", ROOT / "docs" / "tour.md", *sorted((ROOT / "docs" / "learn").glob("*.md"))]
    found = []
    for page in pages:
        text = page.read_text()
        found += re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        session = "".join(re.findall(r"```pycon\n(.*?)```", text, re.DOTALL))
        found += [session] * bool(session)
    assert len(found) > 10
    # each in a copy of one process, which has imported what takes longest
    code = """
import doctest, json, sys, torch, torchvision, regroup
from tests.processes import in_fork
def run(text):
    if text.startswith(">>>"):
        session = doctest.DocTestParser().get_doctest(text, {}, "page", None, 0)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        if runner.run(session, out=sys.stderr.write).failed:
            sys.exit(1)
    else:
        exec(text, {"__name__": "__main__"})
for text in json.load(sys.stdin):
    done = in_fork(run, text)
    if done.returncode:
        sys.exit(text + done.stdout + done.stderr)
"""
    command, text = [sys.executable, "-c", code], json.dumps(found)
    result = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
