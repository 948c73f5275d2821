"""A model's network as an ONNX graph, for onnxruntime and what else reads it: STFTs to masks.  Needs the extra `onnx`."""

import dataclasses
import logging

import jax

from jaxpu.artifacts.archive import ArchiveError
from jaxpu.config import Config
from jaxpu.core.network import TrainedModel, input_shape, make_mask_fn

INPUT, OUTPUT = "stft", "mask"


def num_channels(config: Config) -> int:
    """Channels that the graph takes at once."""
    return input_shape(config)[1]


def serialize(model: TrainedModel) -> bytes:
    """The graph, with the parameters in it.

    Its input `stft` is float32 (examples, channels, frames, bins, 2), real and imaginary parts, any number of examples and
    frames; channels are `num_channels`.  Its output `mask` is float32 (examples, frames, bins) in [0, 1].

    Args:
        model: what `jaxpu.load_model` returns.

    Raises:
        ArchiveError: jax2onnx is not installed, or cannot translate the network.
    """
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise ArchiveError(f'The format onnx needs jax2onnx ({error}). Install it: pip install "jaxpu[onnx]".') from error
    # onnxruntime has no convolution in bfloat16; parameters are float32 in any case.
    precise = dataclasses.replace(model.config.train, mixed_precision=False)
    mask_fn = make_mask_fn(dataclasses.replace(model.config, train=precise))
    variables = jax.device_get(model.variables)

    def mask(parts: jax.Array) -> jax.Array:
        return mask_fn(variables, jax.lax.complex(parts[..., 0], parts[..., 1]))

    # It warns of every shape that it does not write.
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    shape = ("examples", num_channels(model.config), "frames", model.config.data.patch.bins, 2)
    try:
        with jax.numpy_rank_promotion("allow"):  # Its layers need that.
            graph = to_onnx(mask, inputs=[shape], input_names=[INPUT], output_names=[OUTPUT])
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        kind = type(model.config.model).__name__.removesuffix("Config")
        reason = str(error).partition("\n")[0]
        raise ArchiveError(f"jax2onnx cannot translate a {kind} ({reason}). Take the format stablehlo.") from error
    # Shapes of intermediate results are optional, and some are wrong: onnxruntime warns of them.
    del graph.graph.value_info[:]
    return bytes(graph.SerializeToString())
