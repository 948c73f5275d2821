"""The network of a config, and the pure functions that separate with it."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxpu.config import BandSplitRNNConfig, Config, UNetConfig
from jaxpu.config.networks import ConvolutionForm, band_groups, first_bins
from jaxpu.core.models.band_split_rnn import BandSplitRNN
from jaxpu.core.models.patch_cnn import PatchCNN
from jaxpu.core.models.unet import UNet
from jaxpu.core.objectives import make_objective
from jaxpu.core.stft import istft, stft


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A trained model: its config, its parameters and a record of its training.

    Attributes:
        config: run configuration, with the numbers that were estimated from the data.
        variables: parameters and batch statistics, as the functions of this module take them; of an ensemble, a tuple of those of
            its networks, whose masks are averaged.
        info: step, selection criterion and score of the checkpoint, what used stems, fingerprint and counts of the data, and
            the estimates from the data.
    """

    config: Config
    variables: Any
    info: dict[str, Any]

    @property
    def training_rms(self) -> float | None:
        """Mean level of the training mixtures, without their pauses; None where an earlier version prepared the data.

        It is a mean of decibels, so that no loud recording outweighs the others.
        """
        level_db = training_level_db(self.info)
        return None if level_db is None else float(10 ** (np.clip(level_db, -200, 200) / 20))


def training_level_db(info: dict[str, Any]) -> float | None:
    """Mean level of the training mixtures in dB, from the recorded facts of a model; None where they lack it."""
    level_db: float | None = (info.get("data") or {}).get("counts", {}).get("train_mixture", {}).get("level_db")
    return level_db


def networks(variables: Any) -> tuple[Any, ...]:
    """Variables of the networks of a model: of one, or of those of an ensemble."""
    return variables if isinstance(variables, tuple) else (variables,)


def make_network(
    config: Config, num_outputs: int, *, axis_name: str | None = None, convolution: ConvolutionForm = "xla"
) -> nn.Module:
    """The network of a config.

    Args:
        config: run configuration; `train.mixed_precision` chooses the dtype of the computation, parameters are float32.
        num_outputs: logits per bin.
        axis_name: axis of the devices that share the batch, for batch normalization.
        convolution: form in which convolutions are computed.

    Returns:
        A module: (stft complex64 (batch, channels, frames, bins), keys (batch,) or None, train=bool) to logits
        float32 (batch, frames, bins, num_outputs).
    """
    dtype = jnp.bfloat16 if config.train.mixed_precision else jnp.float32
    if isinstance(config.model, UNetConfig):
        patch = config.data.patch
        return UNet(config.model, first_bins(config.model, patch), patch.stereo, num_outputs, dtype, axis_name, convolution)
    if isinstance(config.model, BandSplitRNNConfig):
        return BandSplitRNN(config.model, band_groups(config.model, config.data.patch), num_outputs, dtype)
    return PatchCNN(config.model, num_outputs, dtype, axis_name, convolution)


def input_shape(config: Config) -> tuple[int, int, int, int]:
    """Shape of one clip as the network of a config sees it: (1, channels, frames, bins)."""
    patch = config.data.patch
    return (1, patch.num_channels if config.model.sees_all_channels else 1, patch.frames, patch.bins)


def variable_shapes(config: Config) -> Any:
    """Shapes and dtypes of the variables of a config's network, a tree of `jax.ShapeDtypeStruct`."""
    network = make_network(config, make_objective(config.objective).num_outputs)
    stft = jax.ShapeDtypeStruct(input_shape(config), jnp.complex64)
    return jax.eval_shape(lambda key, stft: network.init(key, stft, train=False), jax.random.key(0), stft)


def make_mask_fn(config: Config, convolution: ConvolutionForm = "xla") -> Callable[[Any, jax.Array], jax.Array]:
    """The pure function from STFT to mask.

    Returns:
        (variables, stft complex64 (batch, channels, frames, bins)) to the mask that keeps the target in all channels, float32
        (batch, frames, bins) in [0, 1].  Of an ensemble it is the mean of the masks of its networks.
    """
    objective = make_objective(config.objective)
    network = make_network(config, objective.num_outputs, convolution=convolution)

    def mask_fn(variables: Any, stft: jax.Array) -> jax.Array:
        masks = [objective.mask(cast(jax.Array, network.apply(each, stft, train=False))) for each in networks(variables)]
        return sum(masks[1:], masks[0]) / len(masks)

    return mask_fn


def make_separate(config: Config, convolution: ConvolutionForm = "xla", shifts: int = 1) -> Callable[..., jax.Array]:
    """The pure function from waveforms to targets: STFT, mask and inverse.

    Args:
        config: of the model.
        convolution: form in which convolutions are computed.
        shifts: grids of frames, each `hop_length / shifts` samples after the one before it, whose masks are computed apart.  The
            inverse takes the frames of all, so it averages the targets.

    Returns:
        (variables, waveform, seen, num_samples, edge_frames=0) to the target, float32 (..., channels, num_samples).
        `waveform` is float32 (..., channels, samples), at the rate and level of the model.  Masks are computed from `seen`: the
        waveform itself, or its downmix (..., 1, samples), whose mask serves all channels.  A network that sees all channels makes
        one mask for them.  The first and the last `edge_frames` frames are discarded.
    """
    mask_fn = make_mask_fn(config, convolution)
    patch = dataclasses.replace(config.data.patch, hop_length=config.data.patch.hop_length // shifts)

    def separate(variables: Any, waveform: jax.Array, seen: jax.Array, num_samples: int, edge_frames: int = 0) -> jax.Array:
        def inner_frames(signal: jax.Array) -> jax.Array:
            spectrum = stft(signal, patch)  # (..., channels, frames, bins)
            edge = edge_frames * shifts
            return spectrum[..., edge : spectrum.shape[-2] - edge, :]

        spectrum, seen_spectrum = inner_frames(waveform), inner_frames(seen)
        # Recordings are examples, and so are channels, unless the network sees all of them.
        *recordings, channels, frames, bins = seen_spectrum.shape
        seen_at_once, masks = (channels, 1) if config.model.sees_all_channels else (1, channels)
        # Grids are examples, too.  All but the first end a frame earlier, and get the last one again: a frame of zeros would
        # change the masks before it.
        padded = jnp.pad(seen_spectrum, ((0, 0),) * (seen_spectrum.ndim - 2) + ((0, shifts - 1), (0, 0)), mode="edge")
        grids = jnp.stack([padded[..., shift::shifts, :] for shift in range(shifts)])
        grid_frames = grids.shape[-2]
        mask = mask_fn(variables, grids.reshape(-1, seen_at_once, grid_frames, bins))
        mask = jnp.moveaxis(mask.reshape(shifts, *recordings, masks, grid_frames, bins), 0, -2)
        mask = mask.reshape(*recordings, masks, grid_frames * shifts, bins)[..., :frames, :]
        return istft(mask.astype(spectrum.dtype) * spectrum, patch, num_samples)

    return separate


def make_separate_recordings(config: Config, convolution: ConvolutionForm = "xla") -> Callable[[Any, jax.Array], jax.Array]:
    """The pure function from whole recordings to targets: downmix, scale to the level of the model, then `make_separate`.

    Returns:
        (variables, waveform float32 (recordings, channels, samples)), at the model's rate and of at least `n_fft` samples, to the
        target in each, of the same shape.
    """
    patch, separate = config.data.patch, make_separate(config, convolution)

    def separate_recordings(variables: Any, waveform: jax.Array) -> jax.Array:
        num_samples = waveform.shape[-1]
        seen = waveform if patch.stereo else waveform.mean(1, keepdims=True)
        mean, deviation = jnp.float32(0), jnp.float32(1)
        if patch.level != "reference":
            mean = seen.mean((1, 2), keepdims=True)
            deviation = seen.std((1, 2), keepdims=True, ddof=1)
            # Rounding gives a constant signal a deviation, too.
            deviation = jnp.where(deviation > 1e-6 * jnp.abs(mean), deviation, 1)

        def extended(signal: jax.Array) -> jax.Array:
            """Scale to the model's level, and reflect the end up to a whole number of hops, so that every frame is complete."""
            levelled, hop = (signal - mean) / deviation, patch.hop_length
            levelled = jnp.concatenate([levelled, jnp.flip(levelled[..., -hop:-1], -1)], axis=-1)
            return levelled[..., : -(-num_samples // hop) * hop]

        return deviation * separate(variables, extended(waveform), extended(seen), num_samples)

    return separate_recordings
