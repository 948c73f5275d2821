"""The model that comes with jaxpu: that its name finds it, and that it separates songs with instruments it has never heard."""

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.rendered.songs import render_song
from jaxpu import load_model, separate_waveform
from jaxpu.artifacts.checkpoints import CheckpointError
from jaxpu.artifacts.starters import resolved
from jaxpu.cli.__main__ import main as jaxpu

SMALL_FONT = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")
"""Another sound font than those of its training songs."""

LARGEST_BYTES = 5_000_000


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    target = np.vdot(reference, estimate) / np.vdot(reference, reference) * reference
    return float(10 * np.log10(np.sum(target**2) / np.sum((estimate - target) ** 2)))


def test_its_name_finds_it_unless_something_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolved("starter").stat().st_size < LARGEST_BYTES
    assert resolved("runs/starter") == Path("runs/starter")
    (tmp_path / "starter").mkdir()
    assert resolved("starter") == Path("starter")
    with pytest.raises(CheckpointError, match="starter is neither a run directory nor an exported archive"):
        load_model("starter")


@pytest.mark.slow
def test_it_separates_songs_with_instruments_that_it_has_not_heard():
    model, improvements = load_model("starter"), []
    for index in range(3):
        stems = {
            name: signal / 32768 for name, signal in render_song(99, "test", index, seconds=10, sound_fonts=(SMALL_FONT,)).items()
        }
        mixture = sum(stems.values()).astype(np.float32)
        estimate = separate_waveform(model, mixture, 44_100)
        improvements.append(si_sdr(stems["vocals"], estimate) - si_sdr(stems["vocals"], mixture))
    assert np.mean(improvements) > 5
    assert min(improvements) > 0


def test_its_card_states_licence_and_training_data(capsys):
    assert jaxpu(["info", "starter"]) == 0
    said = capsys.readouterr().out
    assert "CC0-1.0" in said
    assert "rendered songs" in said
