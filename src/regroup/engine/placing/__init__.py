"""From a graph to steps: where every value lies, which kernels compute it, what runs at the same time."""
