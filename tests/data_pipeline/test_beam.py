"""Preparation through Apache Beam with its local runner: the same records as without Beam."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import DataError
from data_pipeline.prepare import prepare
from data_pipeline.tfrecord import read_record
from data_pipeline.tracks import Folders

CONFIG = DataConfig(
    patch=PatchSpec(sample_rate=8000, clip_samples=4000, n_fft=256, win_length=256, hop_length=128), validation_share=0.3
)
LOCAL = ("--runner=DirectRunner",)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    for folder in ("with", "without"):
        (tmp_path / folder).mkdir()
        for song in range(3):
            samples = np.random.default_rng([song, len(folder)]).normal(0, 0.1, 24_000 + 4000 * song)
            soundfile.write(tmp_path / folder / f"{song}.wav", samples, 8000)
    return Folders(tmp_path / "with", tmp_path / "without")


@pytest.mark.slow
def test_the_same_records_as_the_ordinary_preparation(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ordinary = prepare(folders, CONFIG, tmp_path / "ordinary", num_workers=1, progress=False)
    # Tracks that were finished before an error, and an incomplete file of Beam.
    monkeypatch.chdir(tmp_path)
    (Path("beamed") / "unfinished" / "beam-temp-outcomes").mkdir(parents=True)
    bad = folders.with_target / "3.wav"
    soundfile.write(bad, np.where(np.arange(24_000) == 9, np.nan, 0.1), 8000, "FLOAT")
    with pytest.raises(DataError, match=r"1 of 7 tracks cannot be used(.|\n)*3\.wav"):
        prepare(folders, CONFIG, Path("beamed"), beam_options=LOCAL, progress=False)
    bad.unlink()
    finished = {path.name: path.stat().st_mtime_ns for path in Path("beamed/unfinished/tracks").iterdir()}
    assert finished
    beamed = prepare(Folders(Path("with"), Path("without")), CONFIG, Path("beamed"), beam_options=LOCAL)
    assert "tracks are finished already" in capfd.readouterr().out
    assert beamed.info == ordinary.info
    assert not (tmp_path / "beamed" / "unfinished").exists()
    number = 0
    for split in ("train", "validation"):
        for signal in ("mixture", "accompaniment"):
            theirs, ours = beamed.index(split, signal), ordinary.index(split, signal)
            for name, values in vars(ours).items():
                np.testing.assert_array_equal(getattr(theirs, name), values)
            for shard, offset in zip(ours.shard, ours.offset, strict=True):
                expected = read_record(ordinary.shard_path(split, signal, shard), offset)
                assert read_record(beamed.shard_path(split, signal, shard), offset) == expected
                number += 1
    assert number == sum(count["stored"] for count in ordinary.info["counts"].values()) > 30
    # TensorFlow Datasets opens it like any other.
    assert json.loads((tmp_path / "beamed" / "dataset_info.json").read_text())["fileFormat"] == "tfrecord"
    assert PatchDataset.open("beamed").fingerprint == ordinary.fingerprint


def test_a_folder_that_beam_takes_for_a_pattern_is_refused(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\[1\]: .*patterns"):
        prepare(folders, CONFIG, tmp_path / "data[1]", beam_options=(), progress=False)


@pytest.mark.slow
def test_a_pipeline_that_fails_is_an_error_in_a_sentence(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^The Beam pipeline failed: .*Nowhere"):
        prepare(folders, CONFIG, tmp_path / "data", beam_options=("--runner=NowhereRunner",), progress=False)
