"""Kernels: code for one fused operation at its exact shape, generated through LLVM.

`problem` says what to do and `view` where the data lies; `templates` hold one way of doing it each;
`lang` is the small vector language they are written in; `target` is the CPU as data; `program` joins
kernels into one native function for a whole network.
"""
