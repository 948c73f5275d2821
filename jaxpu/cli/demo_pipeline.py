"""The main job from end to end on songs that it makes itself: synthesize, prepare, train, evaluate, separate."""

import time
from pathlib import Path
from typing import Any, Literal

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
from jaxpu.training.loop import train


def demo(config: Config, out: str | Path, *, num_train: int = 24, num_test: int = 4, seconds: float = 20.0) -> None:
    """Runs the main job, each stage with a progress bar, and prints the scores and what it wrote.

    A stage that is complete in `out` is not done again.

    Args:
        config: of the data and the run.
        out: folder of all that is written.
        num_train: songs to train on.
        num_test: songs to test on.
        seconds: length of a song.
    """
    out = Path(out)
    started = time.perf_counter()
    rate = config.data.patch.sample_rate
    print(f"1/5 Synthesizing {num_train} + {num_test} songs of {seconds:g} s at {rate} Hz in {out / 'corpus'}", flush=True)
    corpus = Musdb18HQ(synthesize(out / "corpus", num_train=num_train, num_test=num_test, seconds=seconds, sample_rate=rate))
    print(f"2/5 Preparing patches in {out / 'data'}", flush=True)
    prepare(corpus, config.data, out / "data")
    print(f"3/5 Training in {out / 'run'} on {parallel.describe()}", flush=True)
    train(config, out / "data", out / "run")
    print("4/5 Evaluating on the test songs", flush=True)
    model = load_model(out / "run")
    table = evaluate(model, corpus, out / "evaluation")
    song = sorted((out / "corpus" / "test").iterdir())[0] / "mixture.wav"
    print(f"5/5 Separating {song}", flush=True)
    report = separate(model, [song], out / "separated")
    picture = out / "separation.png"
    separated = next(path for path in report.written[song] if path.stem != "accompaniment")
    plot_separation(
        picture,
        config.data.patch,
        rate,
        mixture=_first_channel(song),
        reference=np.sum([_first_channel(song.with_name(f"{stem}.wav")) for stem in config.data.target], axis=0),
        estimates={"target, separated": _first_channel(separated)},
        title=song.parent.name,
    )

    print()
    print(format_table(table))
    print()
    print("Trained on mixtures, and on accompaniment of other songs.")
    print("Listen to:")
    for path in [song, *report.written[song]]:
        print(f"  {path}")
    print(f"Look at: {picture}")
    print(f"Checkpoints, learning curves and scores: {out / 'run'}, {out / 'evaluation'}")
    print(f"Took {time.perf_counter() - started:.0f} s.")


def example_songs(
    songs: Literal["synthetic", "musdb"],
    root: str | Path,
    *,
    num_train: int,
    num_test: int,
    seconds: float,
    sample_rate: int,
    url: str | None = None,
) -> Musdb18 | Musdb18HQ:
    """Songs to try jaxpu on; what is in `root` already is not made again.

    Args:
        songs: `synthetic`, or `musdb`, its excerpts of 7 seconds; where these cannot be downloaded it says so, and synthetic
            songs take their place.
        root: folder of the songs.
        num_train: synthetic songs to train on.
        num_test: synthetic songs to test on.
        seconds: length of a synthetic song.
        sample_rate: of the synthetic songs, in Hz.
        url: of musdb's archive; None is musdb's.

    Raises:
        ValueError: `songs` is neither.
    """
    if songs not in ("synthetic", "musdb"):
        raise ValueError(f"songs is {songs!r}; it must be 'synthetic' or 'musdb'.")
    root = Path(root)
    if songs == "musdb":
        try:
            download_musdb7s(root / "musdb", url=url)
            return Musdb18(root / "musdb")
        except AudioError as error:
            print(f"{error} Until then songs are synthesized.")
    sizes: dict[str, Any] = {"num_train": num_train, "num_test": num_test, "seconds": seconds, "sample_rate": sample_rate}
    # Few and short songs take no longer than processes take to start.
    return Musdb18HQ(synthesize(root / "synthetic", **sizes, num_workers=1))


def _first_channel(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32", always_2d=True)[0][:, 0]
