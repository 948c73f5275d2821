"""Write songs of real voices over other people's music: the nearest to one's own real songs that has stems.

    apt-get download singularity-music warzone2100-music
    for each in *-music_*.deb; do dpkg -x $each music; done
    python benchmarks/voices_elsewhere.py OUT --voices CORPUS --music music

CORPUS has the layout of MUSDB18-HQ; the vocals of its test songs of 20 s and more are the voices.  Any folders of music without
voices will do; this is that of two games (CC BY-SA 3.0), which Debian ships, and nothing is installed.
Each voice sings over passages of several pieces, about 3 dB below them, and rests in the last third of each.  OUT gets the layout
of MUSDB18-HQ, for benchmarks/adaptation.py.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from data_pipeline import audio
from data_pipeline.recording_files import find_recordings

RATE = 44_100
SECONDS = 45.0
LEAST_VOICE_S = 20.0
VOICE_DB, VOICE_SPREAD_DB = -3.0, 2.0
"""Level of the voice relative to the music, mean and standard deviation."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--music", type=Path, nargs="+", required=True)
    parser.add_argument("--pieces", type=int, default=6, help="pieces of music for each voice")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(args)
    rng = np.random.default_rng(arguments.seed)
    voices = [path for path in sorted(arguments.voices.glob("test/*/vocals.wav")) if seconds_of(path) >= LEAST_VOICE_S]
    found = [path for folder in arguments.music for path in find_recordings(folder).paths]
    pieces = [path for path in found if seconds_of(path) >= 2 * SECONDS]
    chosen = rng.permutation(len(pieces))[: len(voices) * arguments.pieces]
    if len(chosen) < len(voices) * arguments.pieces:
        parser.error(
            f"{len(pieces)} pieces of {2 * SECONDS:g} s and more were found; {len(voices) * arguments.pieces} are needed."
        )
    for number, index in enumerate(chosen):
        voice, piece = voices[number % len(voices)], pieces[index]
        write_song(arguments.out / "test" / f"{voice.parent.name} - {piece.stem}", song_of(read(voice), read(piece), rng))


def seconds_of(path: Path) -> float:
    """Duration of a recording by its header, or 0."""
    info = audio.probe(path)
    return (info.num_samples or 0) / info.sample_rate


def read(path: Path) -> np.ndarray:
    """A recording at `RATE` in stereo, float32 (2, samples)."""
    samples = np.concatenate(list(audio.read_blocks(path, sample_rate=RATE)), axis=1)
    return np.broadcast_to(samples, (2, samples.shape[1])) if len(samples) == 1 else samples[:2]


def song_of(voice: np.ndarray, piece: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Stems of a song, float32 (2, samples): the voice from its beginning on, over a passage of the piece."""
    length = round(SECONDS * RATE)
    begin = int(rng.integers(0, piece.shape[1] - length + 1))
    music = piece[:, begin : begin + length]
    sung = voice[:, : round(2 / 3 * length)]
    level_db = VOICE_DB + VOICE_SPREAD_DB * rng.standard_normal()
    gain = 10 ** (level_db / 20) * np.sqrt(np.mean(music**2) / np.mean(sung**2))
    vocals = np.zeros_like(music)
    vocals[:, : sung.shape[1]] = gain * sung
    scale = 0.9 / np.max(np.abs(vocals + music))
    return {"vocals": scale * vocals, "other": scale * music, "bass": 0 * music, "drums": 0 * music}


def write_song(folder: Path, stems: dict[str, np.ndarray]) -> None:
    """Write stems and their sum in 16 bits."""
    folder.mkdir(parents=True)
    for name, samples in {**stems, "mixture": sum(stems.values())}.items():
        soundfile.write(folder / f"{name}.wav", np.asarray(samples).T, RATE, "PCM_16")


if __name__ == "__main__":
    main()
