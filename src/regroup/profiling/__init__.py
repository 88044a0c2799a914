"""What a network costs, how long it takes, and how far information flows in it."""
