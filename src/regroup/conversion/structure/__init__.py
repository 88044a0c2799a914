"""Which elements of a network's tensors move together: the ground of `regroup.conversion.tying`."""
