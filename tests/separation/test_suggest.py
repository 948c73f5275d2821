"""Suggested marks: where a model keeps little of the energy."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

import jaxpu
from data_pipeline.errors import AudioError, WriteError
from data_pipeline.mark_formats import Mark, read_marks
from data_pipeline.marks import find_marks, label_tracks
from jaxpu.cli.__main__ import main
from jaxpu.separation.suggest import (
    DOUBTED_SHARE,
    KEPT_SHARE,
    MARGIN_S,
    Energies,
    Suggestion,
    doubtful,
    marks_check,
    measure,
    passages,
    suggest,
)


def energies(*shares: tuple[float, float]) -> Energies:
    """Mixtures of energy 1 in which the target has a share for some seconds, one after the other."""
    target = np.concatenate([np.full(round(10 * seconds), share) for seconds, share in shares])
    return Energies(np.ones_like(target), target)


def rounded(found: list[Suggestion]) -> list[tuple[float, float, float]]:
    return [(round(each.begin_s, 1), round(each.end_s, 1), round(each.kept_db)) for each in found]


def test_passages_without_target_the_surest_first():
    found = passages({Path("a"): energies((8, 0.01), (10, 0.5), (6, 0.001), (10, 0.5), (2, 0.001), (3, 0.5))})
    # The first second of a passage beside the target is not sure: the energies are those of a second around a frame.
    ((path, suggestions),) = found.items()
    assert path == Path("a")
    (surest, begin_s, end_s), (second, *_) = ((each.kept_db, each.begin_s, each.end_s) for each in suggestions)
    assert surest < second
    assert 18 + MARGIN_S <= begin_s <= 18.6 + MARGIN_S
    assert 23.4 - MARGIN_S <= end_s <= 24 - MARGIN_S
    assert suggestions[1].begin_s == 0.0


def test_how_much_is_kept_is_compared_with_all_recordings():
    average = 0.25 / (1 - KEPT_SHARE / 2)  # Of all 60 s, the passages with little included.
    low, high = 0.9 * KEPT_SHARE * average, 1.1 * KEPT_SHARE * average
    found = passages({Path("sung"): energies((30, 0.5)), Path("low"): energies((15, low)), Path("high"): energies((15, high))})
    assert rounded(found[Path("low")]) == [(0.0, 15.0, round(10 * np.log10(low)))]
    assert set(found) == {Path("low")}


def test_frames_do_not_drift_where_they_are_not_whole_samples(tmp_path):
    click = np.zeros(60 * 11_025, np.float32)
    click[round(59.95 * 11_025)] = 0.5
    soundfile.write(tmp_path / "click.wav", click, 11_025)
    mixture = measure(jaxpu.load_model("starter"), tmp_path / "click.wav").mixture
    assert len(mixture) == 600
    assert np.argmax(mixture) == 599


def test_silence_is_no_example():
    silent = Energies(np.zeros(100), np.zeros(100))
    assert passages({Path("a"): silent}) == {}
    assert passages({Path("a"): silent, Path("b"): energies((10, 0.5))}) == {}


def test_marks_in_which_the_model_keeps_much_are_doubtful():
    found = {Path("a"): energies((10, 0.01), (10, 0.5), (10, 0.0)), Path("b"): energies((10, 0.3))}  # 0.2 on average.
    right, wrong, worse = Mark(1.0, 9.0, "a.txt, line 1"), Mark(9.0, 11.0, "a.txt, line 2"), Mark(5.0, None, "b.txt, line 1")
    marks = {Path("a"): (right, wrong, Mark(21.0, None)), Path("b"): (worse,), Path("failed"): (right,)}
    doubts = doubtful(found, marks)
    assert [(doubt.recording, doubt.mark) for doubt in doubts] == [(Path("b"), worse), (Path("a"), wrong)]
    average = (10 * 0.01 + 10 * 0.5 + 10 * 0.3) / 40
    assert [doubt.kept for doubt in doubts] == pytest.approx([0.3 / average, 0.255 / average])
    assert doubtful(found, marks, kept_share=2.0) == []


def test_the_command_names_doubtful_marks_with_file_and_line(tmp_path, capsys):
    songs, labels = tmp_path / "songs", tmp_path / "labels"
    songs.mkdir()
    labels.mkdir()
    time_s, rng = np.arange(10 * 8000) / 8000, np.random.default_rng(0)
    for name in ("one", "two"):
        noise = 0.05 * rng.standard_normal(len(time_s))
        soundfile.write(songs / f"{name}.wav", noise + 0.5 * np.sin(6.28 * 440 * time_s) * (time_s > 5), 8000)
        (labels / f"{name}.txt").write_text("0.5\t4.5\tintro\n5.5\t9.5\tverse\n")
    model = Path(__file__).parents[1] / "data" / "earlier_model.zip"
    words = ["suggest", str(model), str(songs), "-o", str(tmp_path / "out"), "--marks", str(labels), "--json"]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["doubtful_marks"]
    for doubt in document["doubtful_marks"]:
        assert doubt["kept"] > DOUBTED_SHARE
        assert doubt["where"] in {f"{labels / name}.txt, line {line}" for name in ("one", "two") for line in (1, 2)}
    assert main([*words[:-4], str(tmp_path / "again"), "--marks", str(labels)]) == 0
    *_, count = capsys.readouterr().out.splitlines()
    assert count == f"{len(document['doubtful_marks'])} of 4 marks are doubtful."


def test_marks_beyond_the_end_are_all_named_before_anything_is_heard(tmp_path, capsys):
    songs, labels = tmp_path / "songs", tmp_path / "labels"
    songs.mkdir()
    labels.mkdir()
    for name in ("one", "two"):
        soundfile.write(songs / f"{name}.wav", np.zeros(10 * 8000), 8000)
        (labels / f"{name}.txt").write_text("1.0\t10.3\tgood\n20.0\t30.0\tbeyond\n")
    model = Path(__file__).parents[1] / "data" / "earlier_model.zip"
    assert main(["suggest", str(model), str(songs), "-o", str(tmp_path / "out"), "--marks", str(labels)]) == 1
    said = capsys.readouterr().err
    assert "listen" not in said
    for name in ("one", "two"):
        assert f"{labels / name}.txt, line 2: marks 20 s to 30 s of {name}.wav, which lasts 10.00 s" in said
    assert "line 1" not in said


def test_marks_of_a_recording_that_cannot_be_read_are_said_not_to_be_checked(tmp_path, capsys):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    check = marks_check("a model", lambda: jaxpu.load_model(Path(__file__).parents[1] / "data" / "earlier_model.zip"))
    assert check.doubtful({tmp_path / "broken.wav": [Mark(0.0, 1.0)]}) == []
    said = capsys.readouterr().out
    assert "broken.wav" in said
    assert "Its marks are not checked." in said


def test_a_mark_in_silence_is_not_doubted():
    ended = Energies(np.repeat([1.0, 0.0], 50), np.repeat([0.3, 1e-12], 50))
    assert doubtful({Path("a"): ended}, {Path("a"): [Mark(5.0, None)]}) == []


def test_label_tracks_have_the_names_of_their_recordings_and_are_never_replaced(tmp_path, capsys):
    model = jaxpu.load_model(Path(__file__).parents[1] / "data" / "earlier_model.zip")
    paths = [tmp_path / "songs" / name for name in ("one.wav", "more/two.flac", "more/broken.wav")]
    (tmp_path / "songs" / "more").mkdir(parents=True)
    for path in paths[:2]:
        soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal((60_000, 2)), 8000)
    paths[2].write_bytes(b"RIFF")
    report = suggest(model, paths, tmp_path / "songs", tmp_path / "labels", progress=False)
    assert list(report.failed) == [paths[2]]
    assert set(report.written) <= {tmp_path / "labels/one.txt", tmp_path / "labels/more/two.txt"}
    for track, found in report.written.items():
        (marked,) = read_marks(track.read_text(), str(track))
        assert [(mark.begin_s, mark.end_s) for mark in marked.marks] == [(each.begin_s, each.end_s) for each in found]
    (tmp_path / "labels").mkdir(exist_ok=True)
    (tmp_path / "labels/one.txt").write_text("0.0\t1.0\tmine\n")
    with pytest.raises(AudioError, match=r"one\.txt: exists"):
        suggest(model, paths, tmp_path / "songs", tmp_path / "labels", progress=False)
    assert (tmp_path / "labels/one.txt").read_text() == "0.0\t1.0\tmine\n"


def test_a_name_that_is_too_long_costs_no_other_label_track(tmp_path, monkeypatch):
    model = jaxpu.load_model(Path(__file__).parents[1] / "data" / "earlier_model.zip")
    paths = [tmp_path / "songs" / f"{name}.wav" for name in ("a" * 248, "b" * 251, "c")]
    paths[0].parent.mkdir()
    for path in paths:
        soundfile.write(path, np.zeros(60_000), 8000)
    rest = [Suggestion(0.0, 4.0, -30.0)]
    monkeypatch.setattr("jaxpu.separation.suggest.passages", lambda energies: dict.fromkeys(energies, rest))
    paths.append(paths[1].with_suffix(".ogg"))  # With its suffix before .txt, the name of a label track is too long.
    soundfile.write(paths[-1], np.zeros(60_000), 8000)
    report = suggest(model, paths, tmp_path / "songs", tmp_path / "labels", progress=False)
    assert set(report.written) == {tmp_path / "labels" / f"{name}.txt" for name in ("a" * 248, "c")}
    assert "File name too long" in report.failed[paths[1]]


def test_an_output_folder_that_cannot_be_written_is_named_before_anything_is_heard(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("jaxpu.separation.suggest.measure", lambda *_: pytest.fail("heard"))
    with pytest.raises(WriteError, match=r"file/labels: cannot be written .* Choose another folder \(-o\)"):
        suggest(None, [tmp_path / "song.wav"], tmp_path, tmp_path / "file" / "labels", progress=False)


def test_recordings_of_one_name_have_label_tracks_of_their_own(tmp_path):
    expected = {
        "one.wav": "one.wav.txt",
        "one.flac": "one.flac.txt",
        "more/one.wav": "more/one.txt",
        "two.wav": "two.txt",
        "two.wav.mp3": "two.wav.mp3.txt",  # As some converters name it.
        "Three.wav": "Three.wav.txt",
        "three.flac": "three.flac.txt",
        "four": "four.txt",
    }
    recordings = [tmp_path / name for name in expected]
    tracks = label_tracks(recordings, tmp_path)
    assert {path.name if path.parent == tmp_path else "more/one.wav": str(track) for path, track in tracks.items()} == expected
    for path in (*recordings, *(tmp_path / "labels" / track for track in tracks.values())):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1.0\t2.0\n")
    for number, track in enumerate(tracks.values()):
        (tmp_path / "labels" / track).write_text(f"{number}.0\t{number}.5\n")
    found = find_marks(tmp_path / "labels", tmp_path, recordings).passages
    assert {recording: marks[0].begin_s for recording, marks in found.items()} == {path: n for n, path in enumerate(recordings)}
