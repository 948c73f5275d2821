"""Training on marked passages, alone and beside other recordings."""

import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import jaxpu
from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Folders
from jaxpu.artifacts.info import describe, to_text
from jaxpu.config import BootstrapConfig, Config, PatchCNNConfig, TrainConfig
from jaxpu.estimation.positive_gain import estimate_gain_db
from jaxpu.estimation.resolve import with_estimates
from jaxpu.training.loop import train
from jaxpu.training.run import TrainingError

pytestmark = pytest.mark.slow

RATE = 8000
CONFIG = Config(
    data=DataConfig(
        patch=PatchSpec(
            sample_rate=RATE, clip_samples=2048, n_fft=128, win_length=128, hop_length=64, window="hann", level="recording"
        ),
        activity_on="off",
        validation_share=0.3,
    ),
    model=PatchCNNConfig(channels=2, blocks=0, features="log"),
    objective=BootstrapConfig(labels="ratio", remix_steps=2, positive_gain_db="estimate"),
    train=TrainConfig(
        num_steps=4, batch_size=8, learning_rate=0.01, eval_every=2, eval_batches=1, select_by="last", ema_decay=0.9
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Songs of noise with a tone in their second half; other recordings of the same noise, louder by 12 dB when scaled alike."""
    root = tmp_path_factory.mktemp("marks")
    for name in ("songs", "labels", "free"):
        (root / name).mkdir()
    for song in range(6):
        noise = 0.01 * np.random.default_rng(song).standard_normal(4 * RATE)
        tone = 0.05 * np.sin(2 * np.pi * 500 * np.arange(4 * RATE) / RATE) * (np.arange(4 * RATE) >= 2 * RATE)
        soundfile.write(root / "songs" / f"{song}.wav", noise + tone, RATE, "FLOAT")
        soundfile.write(root / "free" / f"{song}.wav", np.random.default_rng(song + 9).permutation(noise), RATE, "FLOAT")
        (root / "labels" / f"{song}.txt").write_text("0.000000\t1.900000\t\r\n")
    return root


def data(folder: Path, *, without: bool) -> Path:
    source = Folders(folder / "songs", folder / "free" if without else None, folder / "labels")
    return prepare(source, CONFIG.data, folder / f"data {without}", num_workers=1, progress=False).directory


def test_marks_alone_train_without_an_estimated_gain(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(CONFIG, data(folder, without=False), tmp_path)
    assert "Gain of the positives: none, for all are marked passages" in capsys.readouterr().out
    assert result["step"] == 4
    assert math.isfinite(result["loss"])
    model = jaxpu.load_model(tmp_path)
    assert model.config.objective.positive_gain_db == 0.0  # type: ignore[union-attr]
    count = model.info["data"]["counts"]["train_accompaniment"]
    assert (count["tracks"], count["marked_tracks"]) == (4, 4)
    assert "train: 4 (0.1 min) with the target, marked passages of 4 of them (0.1 min); validation" in to_text(
        describe(str(tmp_path))
    )


def test_a_run_does_not_go_on_with_marks_that_were_moved(folder: Path, tmp_path: Path) -> None:
    """As many clips and seconds as before, of the same recordings."""
    first = data(folder, without=False)
    train(CONFIG, first, tmp_path / "run", progress=False)
    shutil.copytree(folder / "labels", tmp_path / "labels")
    for path in (tmp_path / "labels").iterdir():
        path.write_text("0.016000\t1.916000\t\r\n")
    moved = prepare(
        Folders(folder / "songs", None, tmp_path / "labels"), CONFIG.data, tmp_path / "moved", num_workers=1, progress=False
    )
    assert moved.info["counts"] == PatchDataset.open(first).info["counts"]
    with pytest.raises(TrainingError, match="other recordings or marks"):
        train(CONFIG, moved.directory, tmp_path / "run", progress=False)


def test_other_recordings_get_the_gain_and_marked_passages_none(folder: Path, tmp_path: Path) -> None:
    directory = data(folder, without=True)
    gain = estimate_gain_db(PatchDataset.open(directory), CONFIG).value
    # A song has the deviation of its noise and its tone, a recording without it that of its noise.
    assert gain == pytest.approx(10 * math.log10(0.01**2 / (0.01**2 + 0.05**2 / 4)), abs=1.5)
    assert train(CONFIG, directory, tmp_path, progress=False)["step"] == 4
    model = jaxpu.load_model(tmp_path)
    assert model.config.objective.positive_gain_db == gain  # type: ignore[union-attr]
    assert "marked passages of 4 of them (0.1 min), 4 (0.3 min) without it" in to_text(describe(str(tmp_path)))


def test_marks_in_silence_leave_the_other_recordings(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No clip of the marked passages is used: all positives are of other recordings, and their gain is estimated."""
    songs = tmp_path / "songs"
    songs.mkdir()
    for path in (folder / "songs").iterdir():
        samples = soundfile.read(path)[0]
        samples[: 2 * RATE] = 0
        soundfile.write(songs / path.name, samples, RATE, "FLOAT")
    config = dataclasses.replace(CONFIG.data, activity_on="mixture", activity_detector="top_db")
    source = Folders(songs, folder / "free", folder / "labels")
    dataset = prepare(source, config, tmp_path / "data", num_workers=1, progress=False)
    assert dataset.marked_tracks
    assert "marked_tracks" not in dataset.info["counts"]["train_accompaniment"]
    found = with_estimates(dataclasses.replace(CONFIG, data=config), dataset, tmp_path)[1]["positive_gain_db"]
    assert f"Gain of the positives: {found['number']:+.1f}" in capsys.readouterr().out


def test_the_positives_of_a_batch_are_equally_loud_wherever_they_come_from(folder: Path, tmp_path: Path) -> None:
    """As the step sees them, by its own statistics: with the estimated gain both sources have the level of the accompaniment."""
    energies = {}
    for without in (False, True):
        run_dir = tmp_path / str(without)
        train(dataclasses.replace(CONFIG), data(folder, without=without), run_dir, progress=False)
        lines = [line for line in (run_dir / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
        energies[without] = np.mean([float(line.split('"positive_energy": ')[1].split(",")[0].rstrip("}")) for line in lines])
    assert energies[True] == pytest.approx(energies[False], rel=0.3)
