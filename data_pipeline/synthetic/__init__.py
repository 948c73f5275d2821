"""Synthetic multitrack corpus, a function of its seed."""
