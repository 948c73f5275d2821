"""Messages for recordings that failed for whatever reason."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.audio import probe
from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.errors import failure, printable
from data_pipeline.recordings import Part, Recording, Track
from data_pipeline.track_records import Job, make_track

LATIN1 = os.fsdecode(b"caf\xe9")


def message(function: Callable[[], object]) -> str:
    try:
        function()
    except Exception as error:
        return failure("song.wav", error)
    pytest.fail("no error")


def test_the_user_s_errors_are_their_messages_and_others_name_the_recording_and_the_type(tmp_path: Path) -> None:
    assert message(lambda: probe(tmp_path / "none.wav")) == f"{tmp_path / 'none.wav'}: does not exist."
    assert message(lambda: np.zeros(1 << 55)).startswith("song.wav: does not fit into memory (")
    assert "song.wav: [Errno 21] Is a directory" in message(lambda: tmp_path.read_text())
    bug = message(lambda: probe(7))  # type: ignore[arg-type]
    assert bug.startswith("song.wav: TypeError: ")
    assert "(data_pipeline.audio, line " in bug
    assert "report" in bug


def test_a_bug_that_one_track_meets_is_the_message_of_that_track(tmp_path: Path) -> None:
    config = DataConfig(patch=PatchSpec(sample_rate=8000, clip_samples=4000, n_fft=256, win_length=256, hop_length=128))
    part = Part(tmp_path / "song.wav", stream="one")  # type: ignore[arg-type]
    soundfile.write(tmp_path / "song.wav", np.zeros(8000), 8000)
    track = Track("song", "train", Recording("song", tmp_path, (part,)), None)
    (tmp_path / "tracks").mkdir()
    text = make_track(Job(0, "key", track), config, tmp_path / "tracks")
    assert text is not None
    assert text.startswith("song: TypeError: ")
    assert not list((tmp_path / "tracks").iterdir())


def test_printable_text_is_text() -> None:
    assert printable(f"{LATIN1} für alle") == r"caf\udce9 für alle"
