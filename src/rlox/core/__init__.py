"""How it is learned: networks, distributions, weights, and the one update of the family."""
