"""Recordings without sound: silent ones, and those of which nothing remains in the mono downmix."""

import contextlib

import numpy as np

from data_pipeline import activity
from data_pipeline.config import PatchSpec
from data_pipeline.errors import DataError
from data_pipeline.recordings import Recording

_CANCELLED = 10**-2.5
"""Energy of the downmix, relative to that of a channel, below which the channels cancel: 25 dB below.  Dither and lossy coding
leave that much of channels of opposite polarity."""

_SUSPECT = 3e-4
"""Mean square of a downmix below which its channels are read once more: those of louder ones would be far beyond full scale, or
do not cancel."""


def check_sound(recording: Recording, energies: np.ndarray, spec: PatchSpec) -> None:
    """Raise DataError if a recording is silent throughout, or its two channels cancel in the mono downmix.

    Args:
        recording: a recording that can be read.
        energies: `activity.chunk_energies` of it or, in mono, of its downmix, at the rate of `spec`; empty where it is too short
            for a sample at this rate.
        spec: parameters of the patches.
    """
    if not energies.size:
        return
    energy = float(energies.mean())
    two = not spec.stereo and recording.num_channels == 2
    if two and energy < _SUSPECT and energy < _CANCELLED * _channel_energy(recording, spec.sample_rate):
        raise DataError(
            f"{recording.name}: its two channels cancel in the mono downmix, since their polarity is opposite. Prepare stereo, "
            "or swap the polarity of one: `ffmpeg -i OLD -af 'pan=stereo|c0=c0|c1=-1*c1' NEW`."
        )
    if activity.is_silent(energies):
        raise DataError(f"{recording.name}: is silent throughout. Replace it, or leave it out (--skip-bad).")


def _channel_energy(recording: Recording, sample_rate: int) -> float:
    """Mean square of the samples of both channels."""
    total, count = 0.0, 0
    with contextlib.closing(recording.blocks(sample_rate, stereo=True)) as blocks:
        for block in blocks:
            total += float(np.square(block, dtype=np.float64).sum())
            count += block.size
    return total / max(count, 1)
