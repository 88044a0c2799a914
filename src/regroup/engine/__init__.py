"""Engine: a whole network as one native function. `regroup.compile` is `running.compiled.compile`.

A network goes through the folders in the order in which they stand here:

- `frontend/` makes a `graph` of a model,
- `operators/` are what its nodes can be, a file each (`operator.py` says what such a file holds),
- `passes/` make it smaller,
- `placing/` gives every value a place and every node kernel problems (of which `kernels` makes code),
- `running/` is what users call,
- `watching/` sees when the model is not the same any more.
"""
