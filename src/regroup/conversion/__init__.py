"""Change the convolutions of a network that is there."""
