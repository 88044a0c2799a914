"""A plugin is what its file says now, not what Python kept of it."""

import os

from regroup.loading.plugins import load_plugins


def test_a_plugin_edited_within_the_same_second_is_run_as_edited(tmp_path):
    """Python's loader took the byte code of the first for all three: sizes and times are the same."""
    path = tmp_path / "patch.py"
    for factor in (1, 2, 1):
        path.write_text(f"factor = {factor}\n")
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert load_plugins([path])[0].factor == factor
    assert not list(tmp_path.rglob("*.pyc"))
