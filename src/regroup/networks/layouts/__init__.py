"""Foreign layouts of the networks' weights: whose keys mean which of our parameters, one file per family."""
