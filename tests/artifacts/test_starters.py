"""The models that come with jaxpu: that their names find them, and that they separate instruments they have never heard."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.rendered.songs import render_song
from jaxpu import load_model, separate_waveform
from jaxpu.artifacts.checkpoints import CheckpointError
from jaxpu.artifacts.starters import STARTERS, resolved
from jaxpu.cli.__main__ import main as jaxpu
from jaxpu.evaluation.table import default_folder

SMALL_FONT = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")
"""Another sound font than those of its training songs."""

LARGEST_BYTES = 5_000_000

TARGETS = {name: target for target, name in STARTERS.items()}


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
    target = np.vdot(reference, estimate) / np.vdot(reference, reference) * reference
    return float(10 * np.log10(np.sum(target**2) / np.sum((estimate - target) ** 2)))


def test_a_name_finds_its_model_unless_something_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolved("runs/starter") == Path("runs/starter")
    # What an evaluation writes does not take the name away.
    assert default_folder(Path("starter")) == Path("starter-evaluation")
    assert default_folder(Path("runs/starter")) == Path("runs/starter/evaluation")
    (tmp_path / "starter").mkdir()
    assert resolved("starter") == Path("starter")
    with pytest.raises(CheckpointError, match="starter is neither a run directory nor an exported archive"):
        load_model("starter")


@pytest.mark.parametrize("name", STARTERS.values())
def test_each_is_small_and_separates_its_target(name):
    assert resolved(name).stat().st_size < LARGEST_BYTES
    assert load_model(name).config.data.target == (TARGETS[name],)


def test_an_option_chooses_the_starter_of_a_target(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stems = render_song(99, "test", 1, seconds=4, sound_fonts=(SMALL_FONT,))
    soundfile.write("song.wav", sum(stem.astype(np.float32) / 32768 for stem in stems.values()).T, 44_100, "FLOAT")
    assert jaxpu(["separate", "starter-drums", "song.wav", "-o", "named"]) == 0
    assert jaxpu(["separate", "starter", "song.wav", "-o", "chosen", "--target", "drums"]) == 0
    assert (tmp_path / "chosen/song/drums.wav").read_bytes() == (tmp_path / "named/song/drums.wav").read_bytes()
    assert jaxpu(["separate", "starter", "song.wav", "-o", "vocals", "--target", "vocals"]) == 0
    assert (tmp_path / "vocals/song/vocals.wav").exists()
    # What a user has under that name is no starter.
    (tmp_path / "starter").symlink_to(resolved("starter-drums"))
    for model, target in (("starter", "vocals"), ("starter", "kazoo"), ("starter-drums", "vocals")):
        capsys.readouterr()
        assert jaxpu(["separate", model, "song.wav", "-o", "wrong", "--target", target]) == 2
        assert f"--target is {target}, and {model} separates drums. Leave --target out" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTERS.values())
def test_they_separate_instruments_that_they_have_not_heard(name):
    model, improvements = load_model(name), []
    for index in range(6):
        stems = {
            stem: signal / 32768 for stem, signal in render_song(99, "test", index, seconds=10, sound_fonts=(SMALL_FONT,)).items()
        }
        target, mixture = stems[TARGETS[name]], sum(stems.values()).astype(np.float32)
        if not target.any():
            continue
        estimate = separate_waveform(model, mixture, 44_100)
        improvements.append(si_sdr(target, estimate) - si_sdr(target, mixture))
    assert len(improvements) >= 3
    assert np.mean(improvements) > 5
    assert min(improvements) > 0


def test_shifts_do_not_harm_the_end_of_a_recording():
    stems = {stem: signal / 32768 for stem, signal in render_song(99, "test", 1, seconds=9.2, sound_fonts=(SMALL_FONT,)).items()}
    model, mixture = load_model("starter"), sum(stems.values()).astype(np.float32)
    for num_samples in (189_630, 339_570, 401_310):

        def error(shifts, num_samples=num_samples):
            target = separate_waveform(model, mixture[:, :num_samples], 44_100, shifts=shifts)
            return np.sqrt(np.mean((target - stems["vocals"][:, :num_samples])[:, -2048:] ** 2))

        assert error(2) < error(1) + 0.01


def test_an_archive_is_loaded_without_what_training_needs():
    program = "import sys, jaxpu.separation.files, jaxpu; jaxpu.load_model('starter'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "jax" in loaded
    assert not {"orbax", "optax", "tensorflow"} & set(loaded)


@pytest.mark.parametrize("name", STARTERS.values())
def test_their_cards_state_licence_and_training_data(name, capsys):
    assert jaxpu(["info", name]) == 0
    said = capsys.readouterr().out
    assert "CC0-1.0" in said
    assert "rendered songs" in said


@pytest.mark.slow
def test_marks_in_which_the_starter_finds_vocals_are_left_out(tmp_path, monkeypatch, capsys):
    """Four songs of which 6 s of each are instrumental, by fading the vocals out; in one the mark is where the voice sings."""
    monkeypatch.chdir(tmp_path)
    Path("starter").mkdir()  # It is not taken for the model.
    rate, sung = 44_100, []
    for index in range(12):
        stems = render_song(99, "test", index, seconds=12, sound_fonts=(SMALL_FONT,))
        vocals, others = stems.pop("vocals") / 32768, sum(stems.values()) / 32768
        if len(sung) == 4 or np.square(vocals[:, : 6 * rate]).sum() < 0.2 * np.square(others[:, : 6 * rate]).sum():
            continue
        vocals[:, 6 * rate :] = 0
        Path("songs").mkdir(exist_ok=True)
        soundfile.write(f"songs/{index}.wav", (vocals + others).T, rate)
        begin_s = 6.2 if sung else 0.5
        Path(f"songs/{index}.txt").write_text(f"{begin_s}\t{begin_s + 5}\t\n")
        sung.append(index)
    assert len(sung) == 4
    words = ["prepare", "recordings", "--with", "songs", "--marks", "songs", "-o", "data", "--workers", "1"]
    assert jaxpu(words) == 0
    said = capsys.readouterr().out
    assert "starter finds the target in 1 of 4 marks, which are left out" in said
    assert f"songs/{sung[0]}.txt, line 1: 0.5 s to 5.5 s of {sung[0]}.wav" in said
    assert jaxpu(["info", "data"]) == 0
    assert "1 of 4 left out: starter finds the target there" in capsys.readouterr().out
    for more in (["--no-check-marks"], ["--data.target", "guitar"]):
        assert jaxpu([*words, *more]) == 0
        assert "finds the target" not in capsys.readouterr().out
