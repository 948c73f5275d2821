"""Pure JAX: losses, STFT, networks, objectives and the training step.  No files, no devices, no clocks."""
