"""Data pipeline from recordings to batches of STFT patches: NumPy, librosa, soundfile, musdb and TensorFlow, never JAX."""
