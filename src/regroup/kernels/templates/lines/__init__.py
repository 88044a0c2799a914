"""Sums and products of lines: convolutions of any dimension and their gradients, for training."""
