"""The check of marks before they are used, with functions in place of models."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import DataError
from data_pipeline.mark_formats import Mark
from data_pipeline.marks_check import Doubt, MarksCheck, check_marks
from data_pipeline.prepare import prepare
from data_pipeline.recordings import Part, Recording, Track
from data_pipeline.tracks import Folders
from jaxpu.artifacts.info import describe_data, to_text

RATE = 8000
CONFIG = DataConfig(
    patch=PatchSpec(sample_rate=RATE, clip_samples=4000, n_fft=256, win_length=256, hop_length=128, level="recording"),
    activity_on="off",
    validation_share=0.25,
)
WRONG = [("Song 1.wav", 5.0), ("Song 2.wav", 1.0), ("Song 2.wav", 5.0)]


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Four songs of 12 s, each with the marks 1 to 3 s and 5 to 7 s."""
    for number in range(4):
        for folder in ("songs", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
        noise = 0.1 * np.random.default_rng(number).standard_normal(12 * RATE)
        soundfile.write(tmp_path / "songs" / f"Song {number}.wav", noise, RATE)
        (tmp_path / "labels" / f"Song {number}.txt").write_text("1.0\t3.0\t\n5.0\t7.0\t\n")
    return tmp_path / "songs"


def doubting(wrong: Sequence[tuple[str, float]], heard: list[int] | None = None) -> MarksCheck:
    """A check that doubts the marks that begin there, and notes how many marks it is asked about."""

    def find(marks: Mapping[Path, Sequence[Mark]]) -> list[Doubt]:
        if heard is not None:
            heard.append(sum(map(len, marks.values())))
        return [
            Doubt(path, mark, 1.5) for path, passages in marks.items() for mark in passages if (path.name, mark.begin_s) in wrong
        ]

    return MarksCheck("a model", find)


def make(songs: Path, check: MarksCheck | None) -> PatchDataset:
    source = Folders(songs, None, songs.parent / "labels")
    return prepare(source, CONFIG, songs.parent / "data", num_workers=1, marks_check=check)


def positives(dataset: PatchDataset) -> dict[str, list[float]]:
    """First seconds of the positive clips, by song."""
    found: dict[str, list[float]] = {}
    for split in ("train", "validation"):
        index = dataset.index(split, "accompaniment")  # type: ignore[arg-type]
        for track in dataset.tracks(split):  # type: ignore[arg-type]
            found[Path(track.name).name] = (index.start[index.track == track.id] / RATE).tolist()
    return found


def test_marks_in_which_the_model_finds_the_target_are_left_out_and_listed(songs, capsys):
    found = positives(dataset := make(songs, doubting(WRONG)))
    first, second = [1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5], [5.0, 5.25, 5.5, 5.75, 6.0, 6.25, 6.5]
    assert found == {"Song 0.wav": first + second, "Song 1.wav": first, "Song 2.wav": [], "Song 3.wav": first + second}
    assert dataset.info["counts"]["train_mixture"]["tracks"] + dataset.info["counts"]["validation_mixture"]["tracks"] == 4
    said = capsys.readouterr().out
    assert "a model finds the target in 3 of 8 marks, which are left out" in said
    for line, name, begin in ((2, "Song 1", 5), (1, "Song 2", 1), (2, "Song 2", 5)):
        assert f"{songs.parent / 'labels' / name}.txt, line {line}: {begin}.0 s to {begin + 2}.0 s of {name}.wav" in said
    assert "--no-check-marks" in said
    assert "3 of 8 left out: a model finds the target there" in to_text(describe_data(dataset))
    assert dataset.record()["marks_check"] == {"model": "a model", "num_marks": 8, "num_left_out": 3}
    assert "Song" not in json.dumps(dataset.record()), "a checkpoint does not name recordings"


def test_clips_in_marks_that_are_left_out_are_mixtures(songs):
    dataset = make(songs, doubting(WRONG))
    starts = {}
    for split in ("train", "validation"):
        index = dataset.index(split, "mixture")
        for track in dataset.tracks(split):
            starts[Path(track.name).name] = (index.start[index.track == track.id] / RATE).tolist()
    every = np.arange(0, 12, 0.5).tolist()
    assert starts["Song 2.wav"] == every
    assert starts["Song 1.wav"] == [start for start in every if not 1 <= start + 0.25 < 3]


def test_without_the_check_all_marks_are_used(songs, capsys):
    assert len(positives(make(songs, None))["Song 2.wav"]) == 14
    assert "finds the target" not in capsys.readouterr().out


def test_data_that_were_checked_are_others_than_data_that_were_not(songs, capsys):
    heard: list[int] = []
    unchecked = make(songs, None).fingerprint
    checked = make(songs, doubting(WRONG, heard)).fingerprint
    assert unchecked != checked
    capsys.readouterr()
    assert make(songs, doubting(WRONG, heard)).fingerprint == checked
    assert "already prepared" in capsys.readouterr().out
    assert heard == [8], "finished data are not listened to again"


def track(number: int, *marks: Mark) -> Track:
    recording = Recording(f"{number}", Path("songs"), (Part(Path(f"songs/{number}.wav")),))
    return Track(f"{number}", "train", recording, recording if marks else None, passages=marks)


def test_the_outcome_is_kept_for_a_preparation_that_was_killed(tmp_path):
    tracks = [track(0, Mark(1.0, 3.0), Mark(5.0, None)), track(1), track(2, Mark(0.0, 2.0))]
    record, heard = tmp_path / "record.json", list[int]()
    check = doubting([("0.wav", 5.0)], heard)
    first = check_marks(tracks, check, record, "a", print)
    assert heard == [3]
    assert check_marks(tracks, check, record, "a", print) == first
    assert heard == [3]
    check_marks(tracks, check, record, "b", print)
    assert heard == [3, 3], "other marks or recordings"
    record.write_text("{")
    assert check_marks(tracks, check, record, "b", print) == first
    assert heard == [3, 3, 3], "a damaged record"


def test_marks_of_a_moved_folder_are_checked_again(songs, monkeypatch):
    """Their times are the same, but what was left out is known by its file and line."""
    with monkeypatch.context() as patched:
        patched.setattr("data_pipeline.prepare.plan", lambda *_: 1 / 0)  # Interrupted after the check.
        with pytest.raises(ZeroDivisionError):
            make(songs, doubting(WRONG))
    (songs.parent / "labels").rename(songs.parent / "moved")
    source = Folders(songs, None, songs.parent / "moved")
    dataset = prepare(source, CONFIG, songs.parent / "data", num_workers=1, marks_check=doubting(WRONG))
    assert positives(dataset).get("Song 2.wav", []) == []
    assert max(positives(dataset)["Song 1.wav"]) < 3.0
    assert max(positives(dataset)["Song 0.wav"]) > 5.0


def test_touching_marks_are_checked_one_by_one(songs):
    (songs.parent / "labels" / "Song 1.txt").write_text("1.0\t3.25\t\n3.25\t7.0\t\n")
    dataset = make(songs, doubting([("Song 1.wav", 3.25)]))
    assert max(positives(dataset)["Song 1.wav"]) <= 3.25 - CONFIG.patch.clip_s
    checked = dataset.info["marks_check"]
    assert checked is not None
    assert [Path(each["where"]).name for each in checked["left_out"]] == ["Song 1.txt, line 2"]


def test_a_model_that_doubts_most_marks_is_about_another_sound(songs):
    wrong = [(f"Song {number}.wav", begin) for number in range(4) for begin in (1.0, 5.0)]
    with pytest.raises(DataError, match=r"(?s)in 5 of 8 marks:.*--data\.target.*--no-check-marks"):
        make(songs, doubting(wrong[:5]))
    check = dataclasses.replace(doubting(wrong[:4]), model="another")
    assert len(positives(make(songs, check))) == 4


def test_without_marks_there_is_nothing_to_check(songs):
    heard: list[int] = []
    source = Folders(songs, songs.parent / "more")
    (songs.parent / "more").mkdir()
    for number in range(2):
        noise = np.random.default_rng(9 + number).standard_normal(6 * RATE)
        soundfile.write(songs.parent / "more" / f"{number}.wav", 0.1 * noise, RATE)
    prepare(source, CONFIG, songs.parent / "data", num_workers=1, marks_check=doubting([], heard))
    assert heard == []
