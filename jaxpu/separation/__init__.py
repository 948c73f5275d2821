"""Recordings of any length, sample rate and number of channels to target and accompaniment."""
