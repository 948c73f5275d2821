"""The full pipeline on a small synthetic corpus: synthesize, prepare, train, evaluate, separate."""

import time
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from data_pipeline.errors import AudioError
from data_pipeline.prepare import prepare
from data_pipeline.synthetic.songs import synthesize
from data_pipeline.tracks import Musdb18, Musdb18HQ, download_musdb7s
from jaxpu import parallel
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.config import Config
from jaxpu.evaluation.evaluate import evaluate, format_table
from jaxpu.monitoring.plots import plot_separation
from jaxpu.separation.files import separate
from jaxpu.training.loop import ASKED_TO_STOP, train


def demo(config: Config, out: str | Path, *, num_train: int = 24, num_test: int = 4, seconds: float = 20.0) -> None:
    """Run the full pipeline on a synthetic corpus; print progress, scores and the files written.

    Stages that are complete in `out` are not repeated.

    Args:
        config: configuration of the data and the run.
        out: folder for all output.
        num_train: number of training songs.
        num_test: number of test songs.
        seconds: length of each song in seconds.

    Raises:
        KeyboardInterrupt: training was asked to stop, and has saved a checkpoint.
    """
    out = Path(out)
    started = time.perf_counter()
    rate = config.data.patch.sample_rate
    print(f"1/5 Synthesizing {num_train} + {num_test} songs of {seconds:g} s at {rate} Hz in {out / 'corpus'}", flush=True)
    corpus = Musdb18HQ(synthesize(out / "corpus", num_train=num_train, num_test=num_test, seconds=seconds, sample_rate=rate))
    print(f"2/5 Preparing patches in {out / 'data'}", flush=True)
    prepare(corpus, config.data, out / "data")
    print(f"3/5 Training in {out / 'run'} on {parallel.describe()}", flush=True)
    if train(config, out / "data", out / "run")["stopped"] == ASKED_TO_STOP:
        raise KeyboardInterrupt
    print("4/5 Evaluating on the test songs", flush=True)
    model = load_model(out / "run")
    table = evaluate(model, corpus, out / "evaluation")
    song = min(out.glob("corpus/test/*/mixture.wav"))
    print(f"5/5 Separating {song}", flush=True)
    separated = separate(model, [song], out / "separated").written[song]
    picture = out / "separation.png"
    _plot(picture, config, song, separated[0])
    lines = [
        "",
        format_table(table),
        "",
        "Trained on mixtures, and on the accompaniment of other songs.",
        "Listen to:",
        *(f"  {path}" for path in [song, *separated]),
        f"Look at: {picture}",
        f"Checkpoints, learning curves and scores: {out / 'run'}, {out / 'evaluation'}",
        f"Took {time.perf_counter() - started:.0f} s.",
    ]
    print("\n".join(lines))


def _plot(picture: Path, config: Config, song: Path, separated: Path) -> None:
    """Plot spectrograms of a mixture, of the true target beside it, and of the separated target."""
    stems = [_first_channel(song.with_name(f"{stem}.wav")) for stem in config.data.target]
    plot_separation(
        picture,
        config.data.patch,
        config.data.patch.sample_rate,
        mixture=_first_channel(song),
        reference=np.sum(stems, axis=0),
        estimates={"target, separated": _first_channel(separated)},
        title=song.parent.name,
    )


def example_songs(
    songs: Literal["synthetic", "musdb"],
    root: str | Path,
    *,
    num_train: int,
    num_test: int,
    seconds: float,
    sample_rate: int,
) -> Musdb18 | Musdb18HQ:
    """Songs to try jaxpu on, made or downloaded unless they are in `root` already.

    Args:
        songs: `synthetic`, or `musdb` for musdb's 7-second excerpts. If these cannot be downloaded, the function prints the
            reason and makes synthetic songs.
        root: folder for the songs.
        num_train: number of synthetic training songs.
        num_test: number of synthetic test songs.
        seconds: length of each synthetic song in seconds.
        sample_rate: sample rate of the synthetic songs in Hz.

    Raises:
        ValueError: `songs` is neither.
    """
    if songs not in ("synthetic", "musdb"):
        raise ValueError(f"songs is {songs!r}; it must be 'synthetic' or 'musdb'.")
    root = Path(root)
    if songs == "musdb":
        try:
            download_musdb7s(root / "musdb")
            return Musdb18(root / "musdb")
        except AudioError as error:
            print(f"{error} Using synthetic songs instead.")
    # Starting worker processes takes longer than making a few short songs.
    return Musdb18HQ(
        synthesize(
            root / "synthetic", num_train=num_train, num_test=num_test, seconds=seconds, sample_rate=sample_rate, num_workers=1
        )
    )


def _first_channel(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0][:, 0]
