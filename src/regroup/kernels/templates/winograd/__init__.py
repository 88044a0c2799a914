"""3x3 convolutions by Winograd's algorithm."""

from __future__ import annotations

from regroup.kernels.templates.winograd.kernel import Winograd, candidates

__all__ = ["Winograd", "candidates"]
