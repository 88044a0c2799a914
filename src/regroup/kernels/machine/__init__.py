"""The machine: the CPU as data, LLVM's code generator, the thread pool."""
