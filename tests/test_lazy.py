"""Names that packages load when they are first used: type checkers see the same ones."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("regroup", "regroup.training")


@pytest.mark.parametrize("name", PACKAGES)
def test_type_checkers_see_the_names_that_are_loaded(name):
    package = importlib.import_module(name)
    tree = ast.parse(Path(package.__file__).read_text())
    (checked,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    seen = {alias.asname: node.module for node in checked.body for alias in node.names}
    assert seen == {each: f"{name}.{home}" for each, home in package._HOME.items()}
    for each, home in seen.items():
        assert getattr(package, each) is getattr(importlib.import_module(home), each)
    assert set(package._HOME) <= set(package.__all__) and set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
        _ = package.nothing


@pytest.mark.parametrize("name", PACKAGES)
def test_importing_them_loads_nothing_heavy(name):
    code = f"import sys, {name}; assert not {{'torch', 'numpy', 'scipy', 'timm', 'PIL'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
