"""The networks, by the class of their config."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxpu.config import PatchCNNConfig
from jaxpu.models.patch_cnn import PatchCNN
from jaxpu.models.patch_cnn import context_frames as patch_cnn_context_frames

MODELS: dict[type, Callable[..., nn.Module]] = {PatchCNNConfig: PatchCNN}


def make_model(config: Any, *, num_outputs: int, dtype: Any, axis_name: str | None = None) -> nn.Module:
    """The network of a model config.

    Args:
        config: one of the keys of `MODELS`.
        num_outputs: logits per bin.
        dtype: what the network computes in; parameters stay float32.
        axis_name: of the devices that share the batch, for batch normalisation.

    Returns:
        A module: `(stft (batch, frames, bins), example_index (batch,), train) -> logits (batch, frames, bins, num_outputs)`.
    """
    return MODELS[type(config)](config=config, num_outputs=num_outputs, dtype=dtype, axis_name=axis_name)


def receptive_field_frames(config: Any) -> int | None:
    """Frames of context that an output frame depends on, on each side; None where there is no bound."""
    return {PatchCNNConfig: patch_cnn_context_frames}[type(config)](config)
