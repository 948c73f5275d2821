"""Separation of recordings into target and accompaniment, at any length, sample rate and number of channels."""
