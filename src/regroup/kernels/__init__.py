"""Kernels: code for one fused operation at its exact shape, generated through LLVM.

From the ground up:

- `machine`: the CPU as data, LLVM's code generator, threads.
- `language`: the small vector language that kernels are written in.
- `problems`: what to do, and where the data lies; `lines`: the same for convolutions in training.
- `templates`: one way of doing a kind of problem each; `templates.parts` is what they share.
- `program`: kernels joined into one native function for a whole network.
- `watch`: machine code of another kind, which looks at Python's objects for changes.
"""
