"""Separate a sound from recordings without ever having that sound alone: positive-unlabeled learning for audio, in JAX."""

__version__ = "0.1.0"
