"""Measure what the target should get above the band of a model, in songs of a higher sample rate.

    python benchmarks/band_above.py CORPUS --real DIR

A corpus is in the layout of MUSDB18-HQ; its test songs are used.  DIR is the folder of benchmarks/real_songs.py, for the guitar
of eight real songs.  Masks are the true ones of the downmix, at 16 and at 11.025 kHz.  Above, the target gets nothing, all of the
mixture, or the mixture times a power of the mask below.  The table goes to benchmarks/results/measured/band-above.json.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from real_songs import BANDS
from real_songs import TARGET as GUITAR

from data_pipeline.config import STEMS, PatchSpec
from data_pipeline.files import write_text
from data_pipeline.progress import progress_bar
from data_pipeline.stem_folders import find_songs
from data_pipeline.tracks import Musdb18HQ, Track, find_tracks
from jaxpu.evaluation.baselines import track_istft, track_stft, with_band_above
from jaxpu.evaluation.scoring import score_track

ROOT = Path(__file__).resolve().parent.parent

RATES = (16_000, 11_025)
"""Of the masks, in Hz."""

RULES: dict[str, float | None] = {"nothing": None, "all of the mixture": 0, "the mask": 1, "the mask squared": 2, "cubed": 3}
"""Exponents of the mask above the band, by rule; None: the target gets nothing there."""

EXCERPT = slice(60, 100)
"""Seconds of the real songs, which last minutes."""

Waveform = npt.NDArray[np.float32]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "measured" / "band-above.json")
    arguments = parser.parse_args(args)
    names = [*STEMS, GUITAR]
    found: dict[tuple[int, str, str], list[float]] = {}
    tracks = find_tracks(Musdb18HQ(arguments.corpus), ("vocals",), validation_share=0.0, seed=0)
    for band in BANDS:
        tracks += find_songs(arguments.real / band / "corpus", (GUITAR,), lambda line: None)
    tracks = [track for track in tracks if track.split == "test"]
    with progress_bar(len(RATES) * len(tracks), "band above", "song") as bar:
        for track in tracks:
            for name, target, mixture, song_rate in _targets(track):
                for rate in RATES:
                    for rule, value in _improvements(target, mixture, song_rate, rate):
                        found.setdefault((rate, rule, name), []).append(value)
            bar.update(len(RATES))
    num_real = len(found[RATES[0], "nothing", GUITAR])
    table = {
        "commands": ["python benchmarks/band_above.py CORPUS --real DIR"],
        "machine": (
            f"SI-SDR improvement in dB, mean over {len(tracks) - num_real} rendered songs, for the guitar {num_real} real ones, "
            "at 44.1 kHz; true masks, no network."
        ),
        "columns": ["masks at", "above the band", *names],
        "rows": [
            [f"{rate / 1000:g} kHz", rule, *(f"{np.mean(found[rate, rule, name]):.2f}" for name in names)]
            for rate in RATES
            for rule in RULES
        ],
    }
    write_text(arguments.results, json.dumps(table, indent=1) + "\n")


def _targets(track: Track) -> Iterator[tuple[str, Waveform, Waveform, int]]:
    """Name, target and mixture, float32 (channels, samples), and sample rate, for every target of a song."""
    stems = {name: stem.read() for name, stem in track.stems.items()}
    rate = next(iter(track.stems.values())).sample_rate
    if GUITAR in stems:
        length = min(stem.shape[1] for stem in stems.values())
        part = slice(EXCERPT.start * rate, min(EXCERPT.stop * rate, length))
        stems = {name: stem[:, part] for name, stem in stems.items()}
    mixture = np.sum(list(stems.values()), axis=0)
    for name in (GUITAR,) if GUITAR in stems else STEMS:
        yield name, stems[name], mixture, rate


def _improvements(target: Waveform, mixture: Waveform, song_rate: int, rate: int) -> Iterator[tuple[str, float]]:
    """SI-SDR improvement in dB by rule, with the true mask at `rate`."""
    patch = PatchSpec(sample_rate=rate, n_fft=1024, win_length=1024, hop_length=512, clip_samples=1024, window="hann")
    magnitudes = [np.abs(track_stft(signal.mean(0), song_rate, patch)) for signal in (target, mixture - target)]
    mask = magnitudes[0] / np.maximum(sum(magnitudes), 1e-9)
    spectra, length = [track_stft(channel, song_rate, patch) for channel in mixture], -(-mixture.shape[1] * rate // song_rate)
    low_mixture, low_target = (
        np.stack([track_istft(factor * spectrum, rate, patch, length) for spectrum in spectra])
        for factor in (np.float32(1), mask)
    )
    alone = np.stack([track_istft(mask * spectrum, song_rate, patch, mixture.shape[1]) for spectrum in spectra])
    reference = {"target": target, "accompaniment": mixture - target}
    for rule, power in RULES.items():
        whole = alone
        if power is not None:
            whole = with_band_above(mixture, song_rate, low_mixture, low_target, rate, one_mask=True, power=power)
        yield rule, score_track(reference, {"target": whole, "accompaniment": mixture - whole}, song_rate).si_sdr_improvement


if __name__ == "__main__":
    main()
