"""The operators of native code, a file each; a file that is added here is an operator.

>>> sorted(name for name in OPERATORS if "resize" in name or "nearest" in name)[0]
'aten::_upsample_nearest_exact2d'
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from regroup.engine.recognition import OPERATORS

for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    importlib.import_module(f"{__package__}.{_module.name}")

__all__ = ["OPERATORS"]
