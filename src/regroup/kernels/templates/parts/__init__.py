"""What templates share: loops over taps, channels and tiles, what is fused into them, fetching ahead."""
