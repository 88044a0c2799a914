"""Damaged files of torchvision's data sets before `train`: pixels, labels and lists, as well as images."""

import os
import shutil

from tests.data.vision_layouts import LAYOUTS, no_hashes
from tests.faults import damage, runs
from tests.faults.standing import Stood


def sets(sweep):
    """One file at a time is damaged in a data set, and a network is trained on it."""
    whole, place = sweep.directory / "whole", sweep.directory / "place"
    for name, make in LAYOUTS.items():
        make(whole / name / "data")
    shutil.copytree(whole, place)
    os.environ["REGROUP_CACHE"] = ""
    argv = ["train", "--model", "tiny", "--image", "8", "--epochs", "1", "--batch-size", "4"]
    argv += ["--display", "quiet", "--device", "cpu", "--out", "../new", "--data"]
    names, stand = list(LAYOUTS), Stood(whole, place)

    def turn(n):
        name = names[n % len(names)]
        os.chdir(place / name)
        file = sweep.chance.choice(sorted(p for p in (place / name).rglob("*") if p.is_file()))
        what = damage.spoil(file, sweep.chance)
        sweep.command(f"train {name}", f"{file.relative_to(place)} {what}", *argv, name)
        stand.restore(name)

    def restore():
        for name in names:
            stand.restore(name)

    with runs.registered(), no_hashes():
        for name in names:
            os.chdir(place / name)
            assert sweep.command(f"train {name}", "whole", *argv, name)[0] == 0, sweep.said
            shutil.rmtree(place / "new")
        stand.learn(names)
        sweep.each(turn, restore)
