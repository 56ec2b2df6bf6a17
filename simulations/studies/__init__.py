"""Studies: a grid of runs, run several at once, and what they say together."""
