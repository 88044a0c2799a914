"""Registries: names, near misses, discovery, and names that are taken."""

import sys
from importlib.metadata import EntryPoint

import pytest

from regroup.errors import ParameterError, UnknownNameError
from regroup.registry import Registry


class One: ...


class Other: ...


def test_an_unknown_name_suggests_the_nearest():
    shapes = Registry("shape")
    shapes.add("square", One)
    shapes.add("circle", Other)
    with pytest.raises(UnknownNameError, match="must be one of circle, square; did you mean 'square'"):
        shapes["sqare"]
    with pytest.raises(KeyError, match=r"must be one of circle, square$"):
        shapes["triangle"]


def test_many_names_are_counted_instead_of_listed():
    numbers = Registry("number")
    for i in range(30):
        numbers.add(f"n{i}", One)
    with pytest.raises(UnknownNameError, match=r"must be one of 30 names$"):
        numbers["zebra"]


def test_names_are_sorted_and_matched_by_pattern():
    shapes = Registry("shape")
    for name in ("square_2", "circle", "square_1"):
        shapes.add(name, One)
    assert list(shapes) == ["circle", "square_1", "square_2"]
    assert shapes.names("square*") == shapes.names("quar") == ["square_1", "square_2"]
    assert shapes.names("*_[2-9]") == ["square_2"]
    assert len(shapes) == 3
    assert "circle" in shapes
    assert "oval" not in shapes


def test_a_name_that_is_taken_is_refused_but_the_same_definition_may_come_again():
    shapes = Registry("shape")
    shapes.add("square", One)
    shapes.add("square", One)
    with pytest.raises(ParameterError, match=r"square': must be a name that is not taken; .*One has it"):
        shapes.add("square", Other)
    assert shapes["square"] is One


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "found_shapes"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from regroup.registry import Registry\nshapes = Registry('shape', __name__)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [n for n in sys.modules if n.startswith("found_shapes")]:
        del sys.modules[name]


REGISTERS = (
    "from found_shapes import shapes\nclass {0}: ...\nshapes.add('{0}', {0})\nassert '{0}' in shapes\n"
)


def test_adding_a_file_to_the_package_is_all_there_is_to_do(package):
    (package / "square.py").write_text(REGISTERS.format("square"))
    (package / "circle.py").write_text(REGISTERS.format("circle"))
    from found_shapes import shapes

    assert list(shapes) == ["circle", "square"]


def test_a_file_that_cannot_be_imported_is_an_error_every_time(package):
    (package / "broken.py").write_text("raise RuntimeError('broken on purpose')\n")
    from found_shapes import shapes

    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken on purpose"):
            list(shapes)


def test_other_packages_add_theirs_by_entry_point(package, monkeypatch):
    (package / "square.py").write_text(REGISTERS.format("square"))
    found = [EntryPoint("square", "found_shapes.square", "some.shapes")]
    monkeypatch.setattr(
        "regroup.registry.entry_points", lambda group: found if group == "some.shapes" else []
    )
    import found_shapes

    outside = found_shapes.shapes = Registry("shape", entry_point="some.shapes")
    assert list(outside) == ["square"]
