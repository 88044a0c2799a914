"""What users call: compiled networks, their plans for every batch size, what `explain()` tells."""
