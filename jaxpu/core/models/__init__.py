"""The networks: complex STFT to logits of every bin.  `jaxpu.core.network` chooses by config."""
