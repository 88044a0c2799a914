"""Functions on tensors: the grouped convolution itself, channel orders, counting, reach."""

from __future__ import annotations

from regroup.ops.backends import backend as backend
from regroup.ops.explain import explain as explain
from regroup.ops.functional import conv1d as conv1d
from regroup.ops.functional import conv2d as conv2d
from regroup.ops.functional import conv3d as conv3d
