"""A command line that cannot be: one line that names the option, its value, what is allowed; status 2."""

import pytest

from regroup.cli import main

LINES = {
    "comple": "command='comple': must be one of *; did you mean 'compile' *",
    "compile": "model=None: must be given: MODEL; --help says what it may be",
    "run resnet_small": "image=None: must be given: --image; --help says what it may be",
    "models --plian": "option='--plian': must be one of this command's; did you mean --plain *",
    "models --zzz": "option='--zzz': must be one of this command's; --help lists them",
    "models a b": "argument='b': must be left out: nothing more has its place here",
    "compile x --image y": "image='y': must be an int or None",
    "compile x --imag 3": "option='--imag': must be one of this command's; did you mean --image?",
    "train --display foo": "display='foo': must be one of auto, plain, quiet",
    "train --epochs": "epochs='': must be an int; its value is missing",
    "train --epochs 1.5": "epochs='1.5': must be an int",
    "train --lr fast": "lr='fast': must be a number",
    "train --decay-milestones 3 x": "decay_milestones='x': must be an int",
    "train --grad_accum_steps x": "grad_accum_steps='x': must be an int",
    "train --epochs 0": "epochs=0: must be an int of at least 1",
    "models zzz": "pattern='zzz': must be a part of a network's name, or a shell pattern",
    "models resnit*": "pattern='resnit': must be a part of a network's name*; did you mean 'resnet*",
    "profile resnet_small --strategy dense --where stages.0.1.conv*": "where='stages.0.1.conv*': must be a "
    "choice that matches a convolution; did you mean 'stages.*",
    "train --opt sdg --out /proc/x": "opt='sdg': must be one of *; did you mean 'sgd'*",
    "compile resnet_small --threads 9999": "threads=9999: must be an int from 1 to 1024",
    "profile resnet_small --channels 0": "channels=0: must be an int from 1 to 1024",
    "completion tcsh": "shell='tcsh': must be one of bash, zsh, fish",
    "strategies groupd": "pattern='groupd': must be *; did you mean 'grouped' *",
    "profile resnet_small --strategy grouped:group=2": "option='group': must be * of grouped; did you mean*",
    "profile resnet_small --strategy grouped:groups=3": "strategy='grouped:groups=3': must be one that "
    "fits the network; fits none of the layers: groups=3: must be a divisor of * (* reasons in all)",
    "profile resnet_small --strategy groupd": "strategy='groupd': must be one of *; did you mean 'grouped'*",
}


@pytest.mark.parametrize("line", LINES)
def test_wrong_use_is_one_line(line, capsys):
    from fnmatch import fnmatchcase

    with pytest.raises(SystemExit) as exit:
        main(line.split())
    out, err = capsys.readouterr()
    assert exit.value.code == 2 and not out and len(err.splitlines()) == 1
    command = line.split()[0]
    prefix = "regroup: " if command == "comple" else f"regroup {command}: "
    assert fnmatchcase(err.strip(), prefix + LINES[line].replace("[", "[[]")), err


def test_right_use_is_not_refused(capsys):
    """What tyro takes, these must not be asked about; what they find is only said of what it refused."""
    for line in ("models --no-plain resnet2*", "models resnet20 --plain", "strategies --json dense"):
        with pytest.raises(SystemExit) as exit:
            main(line.split())
        assert exit.value.code == 0 and not capsys.readouterr().err
