"""Engine: a whole network as one native function. `regroup.compile` is `compiled.compile`.

`capture` records a model as a `graph`; `passes` make it smaller; `schedule` turns it into kernel problems;
`compiled` is what the user calls.
"""
