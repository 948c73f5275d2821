"""Measure how well a real mask can separate at most, by STFT, by what it is computed from, and by bands.

    python benchmarks/oracle_masks.py CORPUS

A corpus is in the layout of MUSDB18-HQ; its test songs are used.  The mask is |t| / (|t| + |a|) with the true target t and
accompaniment a, as the networks learn it.  It is computed from the downmix, from all channels or for each, and in the bins or in
the bands of the U-Net.  The table goes to benchmarks/results/measured/oracle-masks.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from data_pipeline.config import STEMS, PatchSpec
from data_pipeline.files import write_text
from data_pipeline.progress import progress_bar
from data_pipeline.tracks import Musdb18HQ, find_tracks
from jaxpu.config.networks import UNetConfig, first_bins
from jaxpu.evaluation.baselines import track_istft, track_stft
from jaxpu.evaluation.scoring import score_track

ROOT = Path(__file__).resolve().parent.parent

RATE = 44_100
"""Of the songs, in Hz."""

Seen = Literal["downmix", "all channels", "each channel"]

METHODS: list[tuple[int, int, int, float | None, Seen]] = [
    (RATE, 1024, 512, None, "downmix"),
    (RATE, 2048, 512, None, "downmix"),
    (RATE, 2048, 512, None, "all channels"),
    (RATE, 2048, 512, None, "each channel"),
    (RATE, 4096, 1024, None, "all channels"),
    (RATE, 4096, 2048, None, "all channels"),
    (RATE, 4096, 2048, 48, "all channels"),
    (RATE, 4096, 2048, 36, "all channels"),
    (RATE, 4096, 2048, 24, "all channels"),
    (RATE, 4096, 2048, 12, "all channels"),
    (16_000, 1024, 512, None, "downmix"),
    (11_025, 1024, 512, None, "downmix"),
]
"""Sample rate, n_fft, hop length, bands per octave (None: bins), and what the mask is computed from."""

Waveform = npt.NDArray[np.float32]


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "measured" / "oracle-masks.json")
    arguments = parser.parse_args(args)
    tracks = find_tracks(Musdb18HQ(arguments.corpus), ("vocals",), validation_share=0.0, seed=0)
    songs = [{name: stem.read() for name, stem in track.stems.items()} for track in tracks if track.split == "test"]
    rows = []
    with progress_bar(len(METHODS) * len(songs), "oracle masks", "song") as bar:
        for rate, n_fft, hop, per_octave, seen in METHODS:
            patch = PatchSpec(sample_rate=rate, n_fft=n_fft, win_length=n_fft, hop_length=hop, clip_samples=n_fft, window="hann")
            first = tuple(range(patch.bins)) if per_octave is None else first_bins(UNetConfig(bands_per_octave=per_octave), patch)
            found: dict[str, list[float]] = {name: [] for name in STEMS}
            for song in songs:
                for name in STEMS:
                    found[name].append(_improvement(song, name, patch, first, seen))
                bar.update()
            frequencies = f"{len(first)} bins" if per_octave is None else f"{len(first)} bands, {per_octave:g} an octave"
            cells = [f"{np.mean(found[name]):.1f}" for name in STEMS]
            rows.append(
                [f"{rate / 1000:g} kHz", f"{n_fft} / {hop}", frequencies, seen, f"{len(first) * rate / hop:,.0f}", *cells]
            )
    table = {
        "commands": ["python benchmarks/oracle_masks.py CORPUS"],
        "machine": f"SI-SDR improvement in dB, mean over {len(songs)} rendered songs, stereo at 44.1 kHz; no network.",
        "columns": ["rate", "n_fft / hop", "frequencies", "mask from", "masks a second", *STEMS],
        "rows": rows,
    }
    write_text(arguments.results, json.dumps(table, indent=1) + "\n")


def _improvement(song: dict[str, Waveform], name: str, patch: PatchSpec, first: tuple[int, ...], seen: Seen) -> float:
    """SI-SDR improvement of the target by its oracle mask, in dB."""
    target = song[name]
    mixture = sum(song.values(), start=np.zeros_like(target))
    accompaniment = mixture - target

    def magnitude(signal: Waveform) -> npt.NDArray[np.float32]:
        """(channels or 1, frames, bands)."""
        channels = signal.mean(0, keepdims=True) if seen == "downmix" else signal
        power = np.abs(np.stack([track_stft(channel, RATE, patch) for channel in channels])) ** 2
        if seen == "all channels":
            power = power.mean(0, keepdims=True)
        return np.asarray(np.sqrt(np.add.reduceat(power, first, axis=2)))

    of_target, of_accompaniment = magnitude(target), magnitude(accompaniment)
    masks = of_target / np.maximum(of_target + of_accompaniment, 1e-9)
    masks = np.broadcast_to(np.repeat(masks, np.diff([*first, patch.bins]), axis=2), (2, masks.shape[1], patch.bins))
    spectra = [mask * track_stft(channel, RATE, patch) for mask, channel in zip(masks, mixture, strict=True)]
    estimate = np.stack([track_istft(spectrum, RATE, patch, target.shape[1]) for spectrum in spectra])
    reference = {"target": target, "accompaniment": accompaniment}
    return score_track(reference, {"target": estimate, "accompaniment": mixture - estimate}, RATE).si_sdr_improvement


if __name__ == "__main__":
    main()
