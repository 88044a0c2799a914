"""Whether a model is still the one that was compiled: settings, hooks, tensors and their numbers."""
