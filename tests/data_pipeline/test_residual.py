"""Stems that do not sum to the mixture: named with the residual; those that do, coded or not, are not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import stempeg

from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.prepare import prepare
from data_pipeline.residual import Residual, ResidualMeter, warning
from data_pipeline.tracks import Musdb18, Musdb18HQ

RATE = 8000
CONFIG = DataConfig(
    patch=PatchSpec(sample_rate=RATE, clip_samples=4000, n_fft=256, win_length=256, hop_length=128),
    activity_on="off",
    validation_share=0.4,
)


def make_corpus(root: Path, mixtures: list[str]) -> Musdb18HQ:
    """Songs whose mixture is the sum of the stems, changed as named."""
    for number, change in enumerate(mixtures):
        folder = root / "train" / change
        folder.mkdir(parents=True)
        rng = np.random.default_rng(number)
        stems = {name: scipy.signal.lfilter([1], [1, -0.9], 0.02 * rng.standard_normal((6 * RATE, 2)), axis=0) for name in STEMS}
        mixture = sum(stems.values())
        mixture = {
            "sum": mixture,
            "louder": mixture * 10 ** (3 / 20),
            "late": np.roll(mixture, 20, axis=0),
            "mastered": np.tanh(3 * mixture),
            "slightly louder": mixture * 10 ** (0.5 / 20),
        }[change]
        for name, samples in (stems | {"mixture": mixture}).items():
            soundfile.write(folder / f"{name}.wav", samples, RATE, "PCM_16")
    return Musdb18HQ(root)


def test_prepare_names_the_songs_whose_stems_do_not_sum(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = make_corpus(tmp_path / "corpus", ["sum", "louder", "late", "mastered", "slightly louder"])
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=1)
    printed = capfd.readouterr().out
    assert printed.count("do not sum to the mixture") == 1
    assert "3 of 5 songs" in printed
    residuals = dataset.info["residual_db"]
    assert residuals["sum"] < -50
    assert residuals["louder"] == pytest.approx(20 * np.log10(1 - 10 ** (-3 / 20)), abs=0.1)
    assert residuals["slightly louder"] == pytest.approx(-25, abs=0.5)
    for name in ("louder", "late", "mastered"):
        assert f"  {name}: {residuals[name]:.1f} dB" in printed
    for name in ("sum", "slightly louder"):
        assert f"  {name}:" not in printed


def test_a_song_without_the_stem_of_its_target_is_prepared_as_before(tmp_path: Path) -> None:
    """Nothing but the check needs it: the accompaniment is the sum of the other stems."""
    source = make_corpus(tmp_path / "corpus", ["sum", "louder"])
    (tmp_path / "corpus" / "train" / "louder" / "vocals.wav").unlink()
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert list(dataset.info["residual_db"]) == ["sum"]


def test_the_coding_of_a_stem_file_is_no_reason_for_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train").mkdir()
    for name in ("a", "b"):
        shutil.copy(stempeg.example_stem_path(), tmp_path / "train" / f"{name}.stem.mp4")
    dataset = prepare(Musdb18(tmp_path), CONFIG, tmp_path / "data", num_workers=1)
    assert all(-30 < db < -17 for db in dataset.info["residual_db"].values())
    assert "do not sum" not in capfd.readouterr().out


def test_a_residual_has_its_value_and_its_limit() -> None:
    rng = np.random.default_rng(0)
    mixture, rest = rng.standard_normal((2, 1, 10 * RATE))
    meter = ResidualMeter(RATE, [])
    for begin in range(0, 10 * RATE, 1234):
        part = slice(begin, begin + 1234)
        meter.add(mixture[:, part], 0.6 * mixture[:, part], 0.4 * mixture[:, part] - 0.1 * rest[:, part])
    found = meter.result()
    assert found is not None
    assert found.db == pytest.approx(-20, abs=0.2)
    assert warning({"a": Residual(-20.1, -20.0)}) is None
    assert "a: -19.9 dB" in str(warning({"a": Residual(-19.9, -20.0), "b": Residual(-19.9, -15.0)}))
