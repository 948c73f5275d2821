"""Time `jaxpu prepare` beside librosa's STFT alone, and the reading of batches.

    python benchmarks/prepare_speed.py

The output has, for one process, without the start of workers:

- for a song in the layout of MUSDB18-HQ (five stereo files at 44.1 kHz, of which two mono signals are stored) the time of
  preparing it over that of `librosa.stft` alone on the two signals, in memory; the goal is at most 3;
- for one mono recording at 44.1 kHz the seconds of audio prepared in a second; the goal is at least 100;
- records per second, read in random order by `PatchDataset.batches`, and in file order by a plain `tf.data.TFRecordDataset`.

The two sides of a comparison take turns (A B A B ...), and the best round of each counts, since other work on the machine can
only slow them down.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import librosa
import numpy as np
import soundfile

from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.prepare import prepare
from data_pipeline.progress import progress_bar
from data_pipeline.tracks import Folders, Musdb18HQ, Source

RATE = 44_100


def main() -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=200.0, help="length of the song")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        song, recording, signals = make_sources(root, arguments.seconds)
        config = DataConfig(patch=PatchSpec())
        spec = config.patch

        def transform(number: int) -> None:
            for signal in signals[:number]:
                librosa.stft(signal, n_fft=spec.n_fft, hop_length=spec.hop_length, win_length=spec.win_length, window=spec.window)

        times = alternate(
            {
                "stft of both": lambda: transform(2),
                "song": lambda: prepare(song, config, root / "song", num_workers=1, progress=False),
                "stft of one": lambda: transform(1),
                "recording": lambda: prepare(recording, config, root / "recording", num_workers=1, progress=False),
            },
            arguments.rounds,
            remove=[root / "song", root / "recording"],
        )
        speed = {name: arguments.seconds / best for name, best in times.items()}
        print(f"librosa.stft of both signals: {speed['stft of both']:6.0f} times real time")
        print(f"prepare a song, both signals: {speed['song']:6.0f} times real time")
        print(f"  time over that of the STFT: {times['song'] / times['stft of both']:6.2f}  (goal: at most 3)")
        print(f"librosa.stft of one signal:   {speed['stft of one']:6.0f} times real time")
        print(f"prepare one mono recording:   {speed['recording']:6.0f} times real time  (goal: at least 100)")
        print(f"  time over that of the STFT: {times['recording'] / times['stft of one']:6.2f}  (goal: at most 3)")
        measure_reading(PatchDataset.open(root / "song"), arguments.rounds)


def make_sources(root: Path, seconds: float) -> tuple[Source, Source, list[np.ndarray]]:
    """A song with stems, a recording with the target, short ones beside both and without it, and the song's two mono signals.

    Two of each, one of them for validation: of a single one, a stretch would be held out, and be made twice.
    """
    generator = np.random.default_rng(0)
    length = int(seconds * RATE)
    stems = {name: generator.integers(-4000, 4000, (length, 2)).astype(np.int16) for name in STEMS}
    mixture = np.stack(list(stems.values())).sum(axis=0).astype(np.int16)
    for song, end in (("Song", length), ("Short song", 2 * RATE)):
        (root / "corpus" / "train" / song).mkdir(parents=True)
        for name, stem in (stems | {"mixture": mixture}).items():
            soundfile.write(root / "corpus" / "train" / song / f"{name}.wav", stem[:end], RATE, subtype="PCM_16")
    for name, first, end in (("with", mixture, length), ("without", stems["bass"], 2 * RATE)):
        (root / name).mkdir()
        for number, data in enumerate((first[:end, 0], stems["drums"][: 2 * RATE, 0])):
            soundfile.write(root / name / f"{number}.wav", data, RATE, subtype="PCM_16")
    signals = [data.mean(axis=1, dtype=np.float32) / 32768 for data in (mixture, mixture - stems["vocals"])]
    return Musdb18HQ(root / "corpus"), Folders(root / "with", root / "without"), signals


def alternate(sides: dict[str, Callable[[], object]], rounds: int, remove: Sequence[Path] = ()) -> dict[str, float]:
    """Best time of every side in seconds.  The sides take turns, after one round that does not count.

    Args:
        sides: functions to time, by name.
        rounds: rounds that count.
        remove: folders that are deleted before every round, untimed.
    """
    best = dict.fromkeys(sides, float("inf"))
    with progress_bar(rounds + 1, "rounds", "round", leave=False) as bar:
        for number in range(rounds + 1):
            for folder in remove:
                shutil.rmtree(folder, ignore_errors=True)
            for name, side in sides.items():
                begin = time.perf_counter()
                side()
                if number:
                    best[name] = min(best[name], time.perf_counter() - begin)
            bar.update()
    return best


def measure_reading(dataset: PatchDataset, rounds: int) -> None:
    """Time the reading of batches and print it."""
    import tensorflow as tf

    batch_size, num_steps = 16, 20
    names = [str(dataset.shard_path("train", signal, 0)) for signal in ("mixture", "accompaniment")]
    features = {"stft": tf.io.FixedLenFeature([], tf.string)}

    def in_order() -> None:
        records = tf.data.TFRecordDataset(names).repeat().take(2 * batch_size * num_steps)
        decoded = records.map(
            lambda record: tf.io.decode_raw(
                tf.io.parse_single_example(record, features)["stft"], tf.as_dtype(dataset.spec.dtype)
            ),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        for _ in decoded.batch(2 * batch_size).prefetch(2).as_numpy_iterator():
            pass

    def shuffled(with_target: bool) -> None:
        for _ in dataset.batches(
            "train", batch_size=batch_size, seed=0, num_steps=num_steps, disjoint_tracks=False, with_target=with_target
        ):
            pass

    times = alternate({"in order": in_order, "shuffled": lambda: shuffled(False), "with target": lambda: shuffled(True)}, rounds)
    megabytes = np.prod(dataset.spec.patch_shape) * np.dtype(dataset.spec.dtype).itemsize / 1e6
    for name, records in (("in order", 2), ("shuffled", 2), ("with target", 3)):
        rate = records * batch_size * num_steps / times[name]
        step_ms = 1000 * times[name] / num_steps
        print(f"read {name + ':':<13} {rate:6.0f} records/s of {megabytes:.2f} MB, {step_ms:5.1f} ms a step of 2 x {batch_size}")


if __name__ == "__main__":
    main()
