"""ONNX files: read as a module of PyTorch's operators, which is recorded, run and compiled like any other."""

from regroup.engine.frontend.onnx.model import OnnxModel as OnnxModel
from regroup.engine.frontend.onnx.model import load as load
