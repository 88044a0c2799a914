"""timm's own tests of its models, run on the networks that it has from regroup.

    curl -LO https://raw.githubusercontent.com/huggingface/pytorch-image-models/main/tests/test_models.py
    python examples/timm_tests.py test_models.py -k "torchscript and shufflenet"

What follows the file goes to pytest. Layers that learn or look at values have no TorchScript: their networks
fail in that one test, with the error that says so. Tests that download weights find none of ours to download.

Run whole once, with timm 1.0's file and all 179 names: of 1,820 tests 1,793 passed, 3 were skipped; 10 failed
for such layers (five networks, scripted and by torch.fx), and 14 for they want networks and weights of timm's
own. Networks as deep as oct_resnetv2_200 take TorchScript longer than the two minutes that timm gives a test.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest
import timm

import regroup.interop.timm as interop


def main(arguments: Sequence[str]) -> int:
    """Run pytest on timm's file, with our names in place of all; return its exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    theirs, ours = timm.list_models, set(interop.registered)

    def list_models(*filters: object, **options: object) -> list[str]:
        options.pop("module", None)  # those with `forward_intermediates`: all of ours have it
        return [name for name in theirs(*filters, **options) if name in ours]

    timm.list_models = list_models
    try:
        return int(pytest.main(["-q", "-p", "no:cacheprovider", "--import-mode=importlib", *arguments]))
    finally:
        timm.list_models = theirs


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
