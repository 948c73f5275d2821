"""Scores of estimates on disk, as any separator writes them."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.synthetic.songs import synthesize
from data_pipeline.tracks import Musdb18HQ, Stems
from jaxpu.cli.__main__ import main
from jaxpu.config_files import load_config
from jaxpu.evaluation.evaluate import EvaluationError, EvaluationOptions, evaluate_estimates, evaluate_separator

RATE = 16_000
OPTIONS = EvaluationOptions(num_workers=1, progress=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    synthesize(root, num_train=1, num_test=2, seconds=4.0, sample_rate=RATE, num_workers=1, progress=False)
    return root


def songs_of(corpus: Path) -> list[Path]:
    return sorted((corpus / "test").iterdir())


@pytest.fixture
def halves(corpus: Path, tmp_path: Path) -> Path:
    """Half of each mixture as vocals, and the other half as accompaniment, in the folders that `jaxpu separate` makes."""
    for song in songs_of(corpus):
        samples, rate = soundfile.read(song / "mixture.wav")
        (tmp_path / "separated" / song.name).mkdir(parents=True)
        for name in ("vocals", "accompaniment"):
            soundfile.write(tmp_path / "separated" / song.name / f"{name}.wav", samples / 2, rate, "FLOAT")
    return tmp_path / "separated"


def test_files_score_as_the_separator_that_wrote_them(corpus: Path, halves: Path, tmp_path: Path) -> None:
    source, data = Musdb18HQ(corpus), load_config("recordings").data
    theirs = evaluate_separator(lambda mixture, rate: 0.5 * mixture, data, source, tmp_path / "theirs", OPTIONS)
    for in_split in (False, True):
        folder = halves.rename(tmp_path / "test").parent if in_split else halves
        table = evaluate_estimates(folder, (), source, tmp_path / "ours", OPTIONS)
        for method, tracks in table.tracks.items():
            for name, scores in tracks.items():
                assert scores.to_json() == theirs.tracks[method][name].to_json()


def test_the_command_names_the_target_and_the_songs_that_fail(
    corpus: Path, halves: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(halves), str(corpus), "--workers", "1"]
    assert main(command) == 0
    shutil.copytree(halves, halves.parent / "others")
    page = halves.parent / "comparison.html"
    assert main(["compare", str(halves), str(halves.parent / "others"), "-o", str(page)]) == 0
    assert songs_of(corpus)[0].name in page.read_text()
    first, second = songs_of(corpus)
    samples, rate = soundfile.read(halves / first.name / "vocals.wav")
    soundfile.write(halves / first.name / "vocals.wav", samples[:-7], rate)
    soundfile.write(halves / second.name / "drums.flac", np.zeros((100, 2)), rate)
    capsys.readouterr()
    assert main(command) == 1
    assert (
        "has vocals (2 songs), drums (1 songs). Name the stems of the target that is to be scored (--target)."
        in capsys.readouterr().err
    )
    assert main([*command, "--target", "bass"]) == 1
    assert "has no files named bass, as those of the target bass would be, but vocals" in capsys.readouterr().err
    assert main([*command, "--target", "vocals", "--json"]) == 1
    scores = json.loads(capsys.readouterr().out)
    assert f"channels of {len(samples) - 7} samples at {rate} Hz, and its mixture" in scores["excluded_tracks"][first.name]
    assert set(scores["methods"]["model"]["tracks"]) == {second.name}
    soundfile.write(halves / first.name / "vocals.wav", samples, rate // 2)
    assert main([*command, "--target", "vocals", "--json"]) == 1
    assert f"at {rate // 2} Hz, and its mixture" in json.loads(capsys.readouterr().out)["excluded_tracks"][first.name]
    (halves / first.name / "vocals.wav").unlink()
    assert main([*command, "--target", "vocals", "--json"]) == 1
    assert "has no vocals of the song" in json.loads(capsys.readouterr().out)["excluded_tracks"][first.name]


def test_several_stems_are_one_file(corpus: Path, halves: Path, tmp_path: Path) -> None:
    for song in songs_of(corpus):
        (halves / song.name / "vocals.wav").rename(halves / song.name / "drums-bass.wav")
    with pytest.raises(EvaluationError, match=r"has drums-bass .* Name the stems of the target"):
        evaluate_estimates(halves, (), Musdb18HQ(corpus), tmp_path / "scores", OPTIONS)
    table = evaluate_estimates(halves, ("drums", "bass"), Musdb18HQ(corpus), tmp_path / "scores", OPTIONS)
    assert table.info["target"] == ["drums", "bass"]
    assert len(table.tracks["model"]) == len(songs_of(corpus))


def test_a_model_is_no_folder_of_estimates(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert main(["evaluate", str(tmp_path / "run"), str(corpus)]) == 1
    assert "holds no finished checkpoint" in capsys.readouterr().err
    assert main(["evaluate", "starter", str(corpus), "--target", "vocals"]) == 1
    assert "A model has its own target: leave --target out." in capsys.readouterr().err


def test_songs_of_one_name_in_both_splits(corpus: Path, tmp_path: Path) -> None:
    """Each is scored with the file of its own split, and perfectly, since the files are the targets."""
    both = tmp_path / "corpus"
    for split, song in zip(("train", "test"), songs_of(corpus), strict=True):
        shutil.copytree(song, both / split / "Song")
        (tmp_path / "separated" / split / "Song").mkdir(parents=True)
        shutil.copy(song / "vocals.wav", tmp_path / "separated" / split / "Song" / "vocals.wav")
    for split in ("train", "test"):
        options = dataclasses.replace(OPTIONS, split=split, baselines=False)
        table = evaluate_estimates(tmp_path / "separated", (), Musdb18HQ(both), tmp_path / "scores", options)
        assert table.tracks["model"]["Song"].si_sdr > 60


@pytest.mark.parametrize("folder", ["museval", "excerpts"])
def test_folders_of_somebody_else_are_not_replaced(corpus: Path, tmp_path: Path, folder: str) -> None:
    notes = tmp_path / "scores" / folder / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    separated = tmp_path / "separated"
    for song in songs_of(corpus):
        (separated / song.name).mkdir(parents=True)
        shutil.copy(song / "vocals.wav", separated / song.name)
    options = dataclasses.replace(OPTIONS, baselines=False)
    with pytest.raises(EvaluationError, match=rf"{folder}: exists, but scores\.json beside it does not"):
        evaluate_estimates(separated, (), Musdb18HQ(corpus), tmp_path / "scores", options)
    assert notes.read_text() == "mine"


def test_four_channels_are_averaged_as_those_of_the_mixture(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    song, estimates = tmp_path / "corpus" / "test" / "Song", tmp_path / "separated" / "Song"
    song.mkdir(parents=True)
    estimates.mkdir(parents=True)
    for name in ("vocals", "drums"):
        soundfile.write(song / f"{name}.wav", generator.uniform(-0.4, 0.4, (RATE, 4)), RATE, "FLOAT")
    shutil.copy(song / "vocals.wav", estimates)
    options = dataclasses.replace(OPTIONS, baselines=False)
    table = evaluate_estimates(estimates.parent, (), Stems(song.parent.parent), tmp_path / "scores", options)
    assert table.tracks["model"]["Song"].si_sdr > 60
