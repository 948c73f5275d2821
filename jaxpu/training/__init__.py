"""The training loop, for one run and for many at once."""
