"""Multitrack corpus rendered from a seed by the programs fluidsynth, flite, espeak-ng and ffmpeg."""
