"""Block floating point, and convolutions of integers of a few bits: exact sums, scaled at the end."""
