"""Baselines: doing nothing, the best fixed gain per frequency, and oracle masks.  NumPy and librosa only."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from data_pipeline.config import PatchSpec
from jaxpu.core.band_above import REFLECTED_SAMPLES, BandAbove

FloatArray = npt.NDArray[np.floating[Any]]
ComplexArray = npt.NDArray[np.complexfloating[Any, Any]]

MODEL, MIXTURE, FIXED, RATIO, BINARY = "model", "mixture", "fixed mask", "oracle ratio mask", "oracle binary mask"
"""Names of the methods that are scored: the model and the baselines."""


def oracle_masks(target_stft: ComplexArray, accompaniment_stft: ComplexArray) -> dict[str, FloatArray]:
    """Ideal masks for a target, "oracle ratio mask" and "oracle binary mask": float, of the shape of the STFTs.

    The ratio mask is |t|^2 / (|t|^2 + |a|^2), 0 where both are silent; the binary mask is 1 where |t| > |a|, else 0.
    """
    target, accompaniment = np.abs(target_stft) ** 2, np.abs(accompaniment_stft) ** 2
    total = target + accompaniment
    ratio = np.divide(target, total, out=np.zeros_like(total), where=total > 0)
    return {RATIO: ratio, BINARY: (target > accompaniment).astype(total.dtype)}


def fixed_mask_sums(target_stft: ComplexArray, mixture_stft: ComplexArray) -> npt.NDArray[np.float64]:
    """Terms of the least-squares fit of a fixed mask for one pair of STFTs, (..., frames, bins).

    Returns:
        float64 (2, bins): real inner products of target and mixture, and the energy of the mixture.
    """
    axes = tuple(range(target_stft.ndim - 1))
    products = target_stft.real * mixture_stft.real + target_stft.imag * mixture_stft.imag
    return np.stack([products.sum(axes, dtype=np.float64), (np.abs(mixture_stft) ** 2).sum(axes, dtype=np.float64)])


def solve_fixed_mask(sums: Iterable[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """The one gain per frequency that is best by least squares over all pairs, within [0, 1]; 0 where no mixture has energy.

    Args:
        sums: of `fixed_mask_sums`, one array per pair.

    Returns:
        float64 (bins,).

    Raises:
        ValueError: there is no pair.
    """
    total = sum(sums, start=np.zeros((2, 1)))
    if total.shape[1] == 1:
        raise ValueError("A fixed mask needs at least one pair of target and mixture to be fitted on.")
    return np.clip(np.divide(total[0], total[1], out=np.zeros_like(total[0]), where=total[1] > 0), 0, 1)


def fixed_mask_sums_of_track(
    target: FloatArray, mixture: FloatArray, sample_rate: int, patch: PatchSpec
) -> npt.NDArray[np.float64]:
    """`fixed_mask_sums` of waveforms (channels, samples), with the STFT of `patch`."""
    return np.sum(
        [
            fixed_mask_sums(*(track_stft(signal[channel], sample_rate, patch) for signal in (target, mixture)))
            for channel in range(len(target))
        ],
        axis=0,
    )


def baseline_targets(
    reference: Mapping[str, FloatArray],
    mixture: FloatArray,
    sample_rate: int,
    patch: PatchSpec,
    fixed_mask: npt.NDArray[np.float64] | None,
) -> dict[str, FloatArray]:
    """Estimate the target by every baseline: (channels, samples) by name.

    Masks work as a model does: at the rate and STFT of `patch`, from the downmix or, if it is stereo, from single channels (also
    where the model has one mask for all channels).  The estimates have the track's rate, and above the band of `patch` what
    `jaxpu.core.band_above` gives a model.

    Args:
        reference: (channels, samples) for "target" and "accompaniment".
        mixture: (channels, samples).
        sample_rate: of the waveforms, in Hz.
        patch: gives the STFT.
        fixed_mask: (bins,), or None to leave that baseline out.
    """
    names = [RATIO, BINARY] if fixed_mask is None else [FIXED, RATIO, BINARY]
    length = -(-mixture.shape[1] * patch.sample_rate // sample_rate)
    low = {name: np.zeros((len(mixture), length), np.float32) for name in [MIXTURE, *names]}
    seen = [
        reference[name] if patch.stereo else np.broadcast_to(reference[name].mean(0), mixture.shape)
        for name in ("target", "accompaniment")
    ]
    for channel in range(len(mixture)):
        spectrum = track_stft(mixture[channel], sample_rate, patch)
        masks = oracle_masks(*(track_stft(signal[channel], sample_rate, patch) for signal in seen))
        if fixed_mask is not None:
            masks[FIXED] = fixed_mask.astype(np.float32)
        for name, signal in low.items():
            masked = spectrum if name == MIXTURE else masks[name] * spectrum
            signal[channel] = track_istft(masked, patch.sample_rate, patch, length)
    one_mask = not patch.stereo
    targets = {
        name: with_band_above(mixture, sample_rate, low[MIXTURE], low[name], patch.sample_rate, one_mask) for name in names
    }
    return {MIXTURE: mixture, **targets}


def with_band_above(
    mixture: FloatArray,
    sample_rate: int,
    low_mixture: FloatArray,
    low_target: FloatArray,
    model_rate: int,
    one_mask: bool,
    power: float = 2.0,
) -> FloatArray:
    """A target at the rate of its mixture: resampled, and with what `jaxpu.core.band_above` gives it above.

    Args:
        mixture: (channels, samples) at `sample_rate`.
        sample_rate: in Hz.
        low_mixture: float32 (channels, samples) at `model_rate`.
        low_target: the target, of the shape of `low_mixture`.
        model_rate: in Hz.
        one_mask: whether channels share a gain.
        power: exponent of the mask.

    Returns:
        float32 (channels, samples), of the shape of `mixture`.
    """
    num_samples = mixture.shape[1]
    if sample_rate <= model_rate:
        return _resampled(low_target, model_rate, sample_rate, num_samples)
    above, size = BandAbove(model_rate, one_mask=one_mask, power=power), 2**17
    blocks = (
        (low_mixture[:, begin : begin + size], low_target[:, begin : begin + size])
        for begin in range(0, low_target.shape[1], size)
    )
    difference = np.concatenate(list(above.differences(blocks)), axis=1)
    return _resampled(difference, model_rate, sample_rate, num_samples) + above.at(0, num_samples, sample_rate) * mixture


def _arguments(patch: PatchSpec) -> dict[str, Any]:
    return {"n_fft": patch.n_fft, "hop_length": patch.hop_length, "win_length": patch.win_length, "window": patch.window}


def track_stft(waveform: FloatArray, sample_rate: int, patch: PatchSpec) -> ComplexArray:
    """STFT, complex64 (frames, bins), of a waveform (samples,) resampled to the rate of `patch` and extended as models extend it.

    That is by reflection to a whole number of hops at its end.  Without it the last samples lie under the tail of a single
    window, by which the inverse divides: it would amplify whatever a mask changed there.
    """
    import librosa
    import soxr

    signal = np.asarray(waveform, np.float32)
    if sample_rate != patch.sample_rate:
        signal = soxr.resample(signal, sample_rate, patch.sample_rate)
    length = -(-max(len(signal), patch.n_fft) // patch.hop_length) * patch.hop_length
    signal = np.pad(signal, (0, length - len(signal)), mode="reflect")
    return librosa.stft(signal, center=True, pad_mode="reflect", **_arguments(patch)).T


def track_istft(spectrum: ComplexArray, sample_rate: int, patch: PatchSpec, num_samples: int) -> FloatArray:
    """The inverse of `track_stft`: (samples,) at the track's rate."""
    import librosa

    length = -(-num_samples * patch.sample_rate // sample_rate)
    signal = librosa.istft(spectrum.T.astype(np.complex64), length=length, **_arguments(patch))
    return _resampled(signal[None], patch.sample_rate, sample_rate, num_samples)[0]


def _resampled(signal: FloatArray, from_rate: int, to_rate: int, num_samples: int) -> FloatArray:
    """(channels, any number) to (channels, num_samples): resampled, with its end reflected as in separation, and cut."""
    import soxr

    if from_rate != to_rate:
        signal = soxr.resample(np.pad(signal, ((0, 0), (0, REFLECTED_SAMPLES)), mode="reflect").T, from_rate, to_rate).T
    return np.pad(signal[:, :num_samples], ((0, 0), (0, max(num_samples - signal.shape[1], 0))))
