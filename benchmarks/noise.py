"""Recordings of noise, for measuring times: what they sound like makes no difference to those."""

import os
from pathlib import Path

import numpy as np
import soundfile

from data_pipeline.config import STEMS
from data_pipeline.tracks import Musdb18HQ

RATE = 44_100


def recording(path: Path, seconds: float, *, channels: int = 2, seed: int = 0) -> Path:
    """Write a recording at 44.1 kHz in 16 bits, a second that repeats, unless it exists; return its path."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        second = np.random.default_rng(seed).integers(-4000, 4000, (RATE, channels)).astype(np.int16)
        with soundfile.SoundFile(path, "w", RATE, channels, "PCM_16") as file:
            for _ in range(int(seconds)):
                file.write(second)
    return path


def corpus(root: Path, songs: int, seconds: float, *, split: str = "train") -> Musdb18HQ:
    """Songs with stems in the layout of MUSDB18-HQ, all the same: hard links of the first."""
    first = root / split / "Song 00"
    for number, name in enumerate((*STEMS, "mixture")):
        recording(first / f"{name}.wav", seconds, seed=number)
    for number in range(1, songs):
        folder = root / split / f"Song {number:02}"
        folder.mkdir(exist_ok=True)
        for path in first.iterdir():
            if not (folder / path.name).exists():
                os.link(path, folder / path.name)
    return Musdb18HQ(root)
