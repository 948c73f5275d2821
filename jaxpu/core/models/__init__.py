"""The networks, by their configs."""

from typing import Any

import flax.linen as nn

from data_pipeline.config import PatchSpec
from jaxpu.config.networks import BandSplitRNNConfig, ModelConfig, band_groups
from jaxpu.core.models.band_split_rnn import BandSplitRNN
from jaxpu.core.models.patch_cnn import PatchCNN, context_frames


def make_model(config: ModelConfig, patch: PatchSpec, *, num_outputs: int, dtype: Any, axis_name: str | None = None) -> nn.Module:
    """The network of a model config.

    Args:
        config: its sizes.
        patch: how the STFT that it sees is made.
        num_outputs: logits per bin.
        dtype: what the network computes in; parameters stay float32.
        axis_name: of the devices that share the batch, for batch normalisation.

    Returns:
        A module: `(stft (batch, frames, bins), example_index (batch,), train) -> logits (batch, frames, bins, num_outputs)`.
    """
    if isinstance(config, BandSplitRNNConfig):
        return BandSplitRNN(config, band_groups(config, patch), num_outputs, dtype)
    return PatchCNN(config, num_outputs, dtype, axis_name)


def receptive_field_frames(config: ModelConfig) -> int | None:
    """Frames of context that an output frame depends on, on each side; None where there is no bound."""
    return None if isinstance(config, BandSplitRNNConfig) else context_frames(config)
