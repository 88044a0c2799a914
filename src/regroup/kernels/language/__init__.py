"""The language of kernels: values, loops, vectors, functions of vectors, tables of words."""
