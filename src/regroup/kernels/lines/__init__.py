"""Convolutions of any dimension and their gradients as sums over lines: `geometry` says how."""
