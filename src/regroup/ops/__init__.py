"""Functions on tensors: the grouped convolution itself, channel orders, counting, reach."""
