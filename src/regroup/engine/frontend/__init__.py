"""From a model to a graph: record it, see that nothing is left behind, recognise its operators."""
