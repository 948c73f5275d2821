"""Check that the stems of a song sum to its mixture: the level of the difference, the residual, relative to the mixture.

Stems that were exported before the mixture was mastered, or that are out of step with it, are no references: whatever is scored
against them or trained on them pays for the difference.  With an oracle ratio mask on two synthetic songs, white noise 20 dB
below the mixture costs 0.2 dB of SI-SDR, 15 dB below 0.6 dB, 10 dB below 1.5 dB.  A high-pass at 200 Hz leaves a residual of
-6 dB and costs 7 dB; a shift by one sample at 16 kHz leaves -5 dB and costs 8 dB; a gain of 2 dB leaves -12 dB and costs 3 dB of
SDR.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from data_pipeline.activity import EnergyMeter
from data_pipeline.recordings import Part, Track

LIMIT_DB = -20.0
"""Largest residual without a warning.  Sums of the same exports leave the rounding of their format, -60 dB or less."""

CODED_LIMIT_DB = -15.0
"""The same for .stem.mp4, where mixture and stems are coded one by one: that leaves some -20 to -30 dB in MUSDB18."""

_FLOOR_DB = -200.0


@dataclasses.dataclass(frozen=True)
class Residual:
    """The residual of a song; JSON-serialisable.

    Attributes:
        db: energy of the mixture minus all stems over that of the mixture, in dB, at least -200.
        limit_db: the largest that is no reason for a warning.
    """

    db: float
    limit_db: float


class ResidualMeter:
    """Meter of the residual of one song, in constant memory.

    The first 0.6 s and the last 0.6 to 1.2 s of longer songs do not count: there an encoder leaves a click in every stream of an
    excerpt.

    Args:
        sample_rate: in Hz.
        parts: streams of the song.
    """

    def __init__(self, sample_rate: int, parts: Iterable[Part]) -> None:
        self._limit_db = CODED_LIMIT_DB if any(part.path.suffix == ".mp4" for part in parts) else LIMIT_DB
        self._mixture, self._residual = EnergyMeter(sample_rate), EnergyMeter(sample_rate)
        self._complete = False

    def add(self, mixture: np.ndarray, accompaniment: np.ndarray, target: np.ndarray | None) -> None:
        """Add the next block of the mixture, the accompaniment and the target's stems, float (channels, n).

        The last may be shorter or None: silence follows its end.
        """
        residual = mixture - accompaniment
        if target is not None:
            self._complete = True
            length = min(target.shape[1], residual.shape[1])
            residual[:, :length] -= target[:, :length]
        self._mixture.add(mixture)
        self._residual.add(residual)

    def result(self) -> Residual | None:
        """The residual of what was added; None if the target has no stem."""
        if not self._complete:
            return None
        mixture, residual = self._mixture.energies, self._residual.energies
        inner = slice(1, -2) if len(mixture) > 3 else slice(None)
        mixture_energy, residual_energy = mixture[inner].sum(), residual[inner].sum()
        if residual_energy <= mixture_energy * 10 ** (_FLOOR_DB / 10):
            return Residual(_FLOOR_DB, self._limit_db)
        return Residual(round(float(10 * np.log10(residual_energy / max(mixture_energy, 1e-30))), 2), self._limit_db)


def song_parts(track: Track) -> tuple[Part, ...]:
    """The streams of the mixture and of all stems of a song."""
    assert track.mixture is not None
    return track.mixture.parts + tuple(part for stem in track.stems.values() for part in stem.parts)


def warning(residuals: Mapping[str, Residual]) -> str | None:
    """A warning that lists the songs whose residual exceeds its limit; None if there are none."""
    large = {name: residual for name, residual in residuals.items() if residual.db > residual.limit_db}
    if not large:
        return None
    listed = "\n".join(f"  {name}: {residual.db:.1f} dB" for name, residual in large.items())
    (limit, *_) = sorted({residual.limit_db for residual in large.values()})
    return (
        f"Warning: the stems of {len(large)} of {len(residuals)} songs do not sum to the mixture: scores and targets are wrong. "
        f"The difference relative to the mixture, which should be below {limit:g} dB:\n{listed}\n"
        "Export mixture and stems with the same gain, effects and alignment, or take the sum of the stems as the mixture."
    )
