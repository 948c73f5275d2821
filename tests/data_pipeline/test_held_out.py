"""Single recordings and dropped validation clips: a stretch is held out, apart from the part to train on."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline import audio
from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import AudioError, DataError
from data_pipeline.prepare import prepare
from data_pipeline.recordings import Part, Recording
from data_pipeline.tfrecord import read_record
from data_pipeline.tracks import Folders, Musdb18HQ, find_tracks

RATE = 8000
CLIP = 4000
CONFIG = DataConfig(
    patch=PatchSpec(sample_rate=RATE, clip_samples=CLIP, n_fft=256, win_length=256, hop_length=128, level="reference"),
    activity_on="off",
    validation_share=0.25,
)


def noise(seed: int, seconds: float, level: float = 0.1, rate: int = RATE) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def folders(root: Path, mixtures: list[np.ndarray], positives: list[np.ndarray], rate: int = RATE) -> Folders:
    for role, recordings in (("with", mixtures), ("without", positives)):
        (root / role).mkdir(parents=True)
        for number, recording in enumerate(recordings):
            soundfile.write(root / role / f"{number}.flac", recording, rate)
    return Folders(root / "with", root / "without")


def stored(dataset: PatchDataset, split: str, signal: str) -> list[bytes]:
    index = dataset.index(split, signal)
    return [
        read_record(dataset.shard_path(split, signal, shard), offset)
        for shard, offset in zip(index.shard, index.offset, strict=True)
    ]


def names(dataset: PatchDataset) -> dict[str, str]:
    return {track.name: track.split for split in ("train", "validation") for track in dataset.tracks(split)}


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".m4a"])
def test_a_stretch_is_what_lies_between_its_samples(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([noise(0, 3.0, rate=44_100), noise(1, 3.0, rate=44_100)], 1), 44_100)
    path = tmp_path / f"long{suffix}"
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", tmp_path / "a.wav", path], check=True)
    recording = Recording("long", tmp_path, (Part(path),))
    whole = recording.read()
    for span in ((0, 50_001), (33_333, 90_000), (100_000, None)):
        stretch = recording.stretch("part", span)
        for block_samples in (1000, 1 << 17):
            read = np.concatenate(list(stretch.blocks(44_100, True, block_samples)), axis=1)
            np.testing.assert_array_equal(read, whole[:, slice(*span)])
        assert stretch.whole.read().shape == whole.shape
        assert stretch.identity() == [[*recording.identity()[0], *span]]
    assert recording.stretch("part", (5, 9)).num_samples == 4
    assert recording.stretch("part", (5, None)).num_samples in (None, recording.num_samples and recording.num_samples - 5)
    resampled = list(recording.stretch("part", (33_333, 90_000)).blocks(16_000, False))
    assert sum(block.shape[1] for block in resampled) == audio.resampled_length(90_000 - 33_333, 44_100, 16_000)
    for span in ((100_000, 10**7), (10**7, None)):
        with pytest.raises(AudioError, match=r"part: ends after \d+ samples"):
            recording.stretch("part", span).read()


def test_one_recording_each_gives_training_and_validation_apart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The issue's case: one file with the target, one without it."""
    mixture, positive = noise(0, 20.2), noise(1, 10.0)
    source = folders(tmp_path, [mixture], [positive])
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=1)
    said = [line for line in capfd.readouterr().out.splitlines() if "is held out" in line]
    assert len(said) == 2
    assert "with_target/0.flac [from 15.00 s]" in said[0]
    # 40 clips, of which the last quarter is held out, and one before it is left out.
    assert {split: dataset.num_clips(split, "mixture") for split in ("train", "validation")} == {"train": 29, "validation": 10}
    assert {split: dataset.num_clips(split, "accompaniment") for split in ("train", "validation")} == {
        "train": 14,
        "validation": 5,
    }
    whole = prepare(
        folders(tmp_path / "more", [mixture, noise(2, 1.0)], [positive, noise(3, 1.0)]),
        dataclasses.replace(CONFIG, validation_share=0.01),
        tmp_path / "whole",
        num_workers=1,
        progress=False,
    )
    expected = [payload for split in ("train", "validation") for payload in stored(whole, split, "mixture") if len(payload)]
    stft = {payload.partition(b"stft")[2][: 4 * CONFIG.patch.frames * CONFIG.patch.bins] for payload in expected}
    for split in ("train", "validation"):  # Clips are those of the whole recording, at the same places.
        for payload in stored(dataset, split, "mixture"):
            assert payload.partition(b"stft")[2][: 4 * CONFIG.patch.frames * CONFIG.patch.bins] in stft
    assert names(dataset) == {
        "with_target/0.flac [to 14.50 s]": "train",
        "without_target/0.flac [to 7.00 s]": "train",
        "with_target/0.flac [from 15.00 s]": "validation",
        "without_target/0.flac [from 7.50 s]": "validation",
    }
    # The same command again finds it.
    prepare(source, CONFIG, tmp_path / "data", num_workers=1)
    assert "already prepared" in capfd.readouterr().out
    # Every batch can be read.
    for split in ("train", "validation"):
        options = {"seed": 0, "disjoint_tracks": True, "with_target": False, "num_steps": 1}
        (batch,) = dataset.batches(split, batch_size=4, **options)
        assert len(batch["unlabeled"]) == 4


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100])
def test_no_sample_of_validation_is_within_a_clip_of_training(tmp_path: Path, rate: int) -> None:
    source = folders(tmp_path, [noise(0, 7.3, rate=rate)], [noise(1, 5.0, rate=rate), noise(2, 5.0, rate=rate)], rate)
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    ends = {name: float(name.split()[-2]) for name in names(dataset) if name.startswith("with_target")}
    (end,) = (second for name, second in ends.items() if "[to" in name)
    (begin,) = (second for name, second in ends.items() if "[from" in name)
    assert begin - end >= CONFIG.patch.clip_s - 0.006  # The names are rounded to 10 ms.
    clips = {split: dataset.num_clips(split, "mixture") for split in ("train", "validation")}
    assert clips["validation"] == round(0.25 * 14)
    assert sum(clips.values()) == 13


def test_dropped_validation_clips_are_replaced_by_a_stretch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The activity rule drops every clip of the recording that was drawn."""
    config = dataclasses.replace(CONFIG, activity_on="mixture")
    source = folders(tmp_path, [noise(0, 20.0), noise(1, 20.0)], [noise(2, 20.0), noise(3, 20.0)])
    (drawn,) = (
        track
        for track in find_tracks(source, config.target, validation_share=0.25, seed=0)
        if track.split == "validation" and track.mixture
    )
    assert drawn.mixture
    quiet = drawn.mixture.parts[0].path
    soundfile.write(quiet, noise(5, 20.0, level=1e-4), RATE)
    dataset = prepare(source, config, tmp_path / "data", num_workers=1)
    assert len([line for line in capfd.readouterr().out.splitlines() if "is held out" in line]) == 1
    for split in ("train", "validation"):
        for signal in ("mixture", "accompaniment"):
            assert dataset.num_clips(split, signal) > 0
    assert len(names(dataset)) == 5


def test_a_song_with_stems_is_held_out_in_all_its_signals(tmp_path: Path) -> None:
    song = tmp_path / "corpus" / "train" / "Song"
    song.mkdir(parents=True)
    stems = {name: noise(number, 10.0) for number, name in enumerate(STEMS)}
    for name, signal in (stems | {"mixture": sum(stems.values())}).items():
        soundfile.write(song / f"{name}.wav", signal, RATE, "FLOAT")
    dataset = prepare(Musdb18HQ(tmp_path / "corpus"), CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert names(dataset) == {"Song [to 7.00 s]": "train", "Song [from 7.50 s]": "validation"}
    (batch,) = dataset.batches("validation", batch_size=5, seed=0, disjoint_tracks=False, with_target=True, num_steps=1)
    assert np.any(batch["target"])


def test_the_level_of_a_stretch_is_that_of_its_recording(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, patch=dataclasses.replace(CONFIG.patch, level="recording"))
    recording = np.concatenate([noise(0, 9.0, 0.01), noise(1, 3.0, 0.3)])
    source = folders(tmp_path, [recording], [noise(2, 9.0)])
    dataset = prepare(source, config, tmp_path / "data", num_workers=1, progress=False)
    levels = set()
    for split in ("train", "validation"):
        options = {"seed": 0, "disjoint_tracks": True, "with_target": False, "num_steps": 1}
        (batch,) = dataset.batches(split, batch_size=4, **options)
        levels |= set(batch["unlabeled_level"].tolist())
    (level,) = levels
    decoded = soundfile.read(tmp_path / "with" / "0.flac", dtype="float32")[0]
    assert level == pytest.approx(decoded.std(), rel=1e-3)


def test_a_recording_too_short_for_two_parts_is_refused(tmp_path: Path) -> None:
    source = folders(tmp_path, [noise(0, 1.2)], [noise(1, 5.0), noise(2, 5.0)])
    with pytest.raises(DataError, match=r"with_target/0.flac: is too short to hold out a part for validation") as caught:
        prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert "0.50 s" in str(caught.value)
    assert str(caught.value).endswith("or use shorter clips (clip_samples).")  # activity_on is off already.
    shutil.rmtree(tmp_path / "with")
    (tmp_path / "with").mkdir()
    soundfile.write(tmp_path / "with" / "0.flac", noise(0, 1.5), RATE)  # Three clips: one, the gap, one.
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert [dataset.num_clips(split, "mixture") for split in ("train", "validation")] == [1, 1]


def test_marks_too_short_for_two_parts_are_refused(tmp_path: Path) -> None:
    source = folders(tmp_path, [noise(0, 8.0)], [])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("1.0\t2.2\t\n")
    source = Folders(source.with_target, None, tmp_path / "labels")
    with pytest.raises(DataError, match=r"with_target/0.flac.* has too short marks .*longer marks"):
        prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)


PREPARE = """
import sys
from pathlib import Path
from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Folders
root = Path(sys.argv[1])
prepare(Folders(root / "with", root / "without"), eval(sys.argv[2]), root / "data", num_workers=1)
"""


@pytest.mark.slow
def test_killed_after_the_choice_of_a_stretch_it_ends_the_same(tmp_path: Path) -> None:
    source = folders(tmp_path, [noise(0, 60.0)], [noise(1, 60.0)])
    command = [sys.executable, "-u", "-c", PREPARE, tmp_path, repr(CONFIG)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        assert any("is held out" in line for line in process.stdout)
        process.kill()
    with pytest.raises(DataError, match="has not finished"):
        PatchDataset.open(tmp_path / "data")
    killed = prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    straight = prepare(source, CONFIG, tmp_path / "straight", num_workers=1, progress=False)
    assert killed.info == straight.info
    for split in ("train", "validation"):
        assert stored(killed, split, "mixture") == stored(straight, split, "mixture")
    assert not (tmp_path / "data" / "unfinished").exists()


def test_an_older_dataset_without_validation_is_prepared_again(tmp_path: Path) -> None:
    source = folders(tmp_path, [noise(0, 5.0)], [noise(1, 5.0)])
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    path = tmp_path / "data" / "jaxpu.json"
    info = json.loads(path.read_text())
    info["fingerprint"] = info.pop("source_fingerprint")
    for signal in ("mixture", "accompaniment"):
        info["counts"][f"validation_{signal}"] |= {"kept": 0}
    path.write_text(json.dumps(info))
    again = prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert again.fingerprint == dataset.fingerprint != info["fingerprint"]


@pytest.mark.parametrize("marked_hop", [1.0, 0.1])
def test_overlapping_marked_clips_do_not_enlarge_what_is_held_out(tmp_path: Path, marked_hop: float) -> None:
    source = folders(tmp_path, [noise(seed, 60.0) for seed in range(3)], [])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("20.0\t40.0\n")
    config = dataclasses.replace(CONFIG, marked_hop=marked_hop)
    source = Folders(source.with_target, None, tmp_path / "labels")
    counts = prepare(source, config, tmp_path / "data", num_workers=1, progress=False).info["counts"]
    train_s, validation_s = (counts[f"{split}_accompaniment"]["kept_s"] for split in ("train", "validation"))
    assert validation_s / (train_s + validation_s) == pytest.approx(config.validation_share, abs=0.03)


def test_a_stretch_without_marks_gives_no_positives(tmp_path: Path) -> None:
    source = folders(tmp_path, [noise(0, 120.0)], [noise(number, 30.0) for number in (1, 2, 3)])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("105.0\t119.0\n")  # In the part that is held out.
    source = Folders(source.with_target, source.without_target, tmp_path / "labels")
    counts = prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False).info["counts"]
    assert counts["train_mixture"]["kept_s"] > 60
    assert 0 < counts["train_accompaniment"]["kept_s"] <= 60  # Of two recordings without the target.
