"""Each figure that the README states, as one command."""
