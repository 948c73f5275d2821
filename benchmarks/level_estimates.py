"""Measure how exactly `jaxpu.estimation.positive_gain` estimates the gain of positives, on songs with stems.

    python benchmarks/level_estimates.py CORPUS [CORPUS ...]

A corpus is in the layout of MUSDB18-HQ; all its splits are used.  For each target the songs are divided at random, many times,
into mixtures and accompaniment of other songs.  The true gain is the mean energy of the accompaniment in the mixtures over that
of the positives.  The table has mean and standard deviation of the true gain and of the estimate's error, with the songs at their
own level (`reference`) and with each recording scaled to the same level (`recording`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import librosa
import numpy as np

from data_pipeline.config import STEMS, PatchSpec
from data_pipeline.progress import progress_bar
from data_pipeline.tracks import Musdb18HQ, find_tracks
from jaxpu.estimation.histograms import MagnitudeHistograms, bands_and_octaves
from jaxpu.estimation.positive_gain import least_difference_db

PATCH = PatchSpec(sample_rate=11_025, n_fft=1024, win_length=1024, hop_length=512, window="hann", level="reference")
BANDS, _ = bands_and_octaves(PATCH)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, nargs="+", metavar="CORPUS")
    parser.add_argument("--tracks", type=int, default=26, help="number of mixtures, and of positives, in a division")
    parser.add_argument("--divisions", type=int, default=60, help="number of random divisions")
    arguments = parser.parse_args(args)
    songs = [song for root in arguments.corpora for song in _songs(root)]
    if len(songs) < 2 * arguments.tracks:
        parser.error(f"{len(songs)} songs are too few for {arguments.tracks} mixtures and {arguments.tracks} positives: --tracks")
    print(f"{len(songs)} songs, {arguments.divisions} divisions, mean ± standard deviation in dB")
    print(f"{'target':<8} {'level':<10} {'true gain':>14} {'error':>14} {'rms error':>10}")
    for level in ("reference", "recording"):
        histograms = [_histograms(song, level) for song in songs]
        for target in STEMS:
            generator = np.random.default_rng(0)
            orders = (generator.permutation(len(songs))[: 2 * arguments.tracks] for _ in range(arguments.divisions))
            found = [_division([histograms[song] for song in order], target, arguments.tracks, level) for order in orders]
            true, error = np.array(found).T
            rms = np.sqrt(np.mean(error**2))
            spread = (f"{values.mean():+.2f} ± {values.std():.2f}" for values in (true, error))
            print(f"{target:<8} {level:<10}", *(f"{text:>14}" for text in spread), f"{rms:>10.2f}")


def _songs(root: Path) -> list[dict[str, np.ndarray]]:
    """The mixture and the accompaniment of each target of every song, float32 (samples,); the latter under the target's name."""
    tracks = find_tracks(Musdb18HQ(root), ("vocals",), validation_share=0.0, seed=0)
    songs = []
    bar = progress_bar(len(tracks), f"read {root.name}", "song")
    for track in tracks:
        read = {
            name: np.concatenate(list(stem.blocks(PATCH.sample_rate, False)), axis=1)[0] for name, stem in track.stems.items()
        }
        mixture = np.sum(list(read.values()), axis=0)
        songs.append({"mixture": mixture} | {name: mixture - read[name] for name in STEMS})
        bar.update()
    bar.close()
    return songs


def _histograms(song: dict[str, np.ndarray], level: str) -> dict[str, tuple[np.ndarray, float]]:
    """Histogram, (bands, levels), of every signal as it would be stored, and its mean energy before scaling."""
    stored = {}
    for name, samples in song.items():
        energy = float(np.mean(samples**2))
        scale = 1.0 if level == "reference" else max(energy, 1e-12) ** -0.5
        histograms = MagnitudeHistograms()
        histograms.add(0, np.abs(librosa.stft(samples, n_fft=PATCH.n_fft, hop_length=PATCH.hop_length)).T, scale, BANDS, 1.0)
        stored[name] = (histograms.magnitudes[0], energy)
    return stored


def _division(songs: list[dict[str, tuple[np.ndarray, float]]], target: str, num_tracks: int, level: str) -> tuple[float, float]:
    """True gain in dB and error of the estimate; the first `num_tracks` songs give the mixtures, the others the positives."""
    mixtures, positives = songs[:num_tracks], songs[num_tracks:]
    if level == "reference":
        hidden, positive = ([song[target][1] for song in part] for part in (mixtures, positives))
    else:
        hidden, positive = [song[target][1] / song["mixture"][1] for song in mixtures], [1.0]
    true = float(10 * np.log10(np.mean(hidden) / np.mean(positive)))
    histograms = (np.sum([song[name][0] for song in part], 0) for part, name in ((mixtures, "mixture"), (positives, target)))
    return true, least_difference_db(*histograms) - true


if __name__ == "__main__":
    main()
