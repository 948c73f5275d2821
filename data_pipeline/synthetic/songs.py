"""Synthetic multitrack corpus in MUSDB18-HQ layout, generated from a seed: no download, no sound fonts.

`data_pipeline.rendered` renders songs that are closer to real ones, with programs and sound fonts.

No fixed filter separates the songs.  Voice and accompaniment have the same long-term spectrum from 100 Hz up, sound at the same
time and share pitches; the best fixed gain per frequency gains less than 1 dB.  They differ locally: the voice has glides,
vibrato and moving formants, the instruments hold their pitch.
"""

import concurrent.futures
import concurrent.futures.process
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.io.wavfile

from data_pipeline.errors import CorpusArgumentError, CorpusError
from data_pipeline.files import available_processors, real_path, replacing, write_text
from data_pipeline.progress import progress_bar
from data_pipeline.rendered.programs import SOUND_FONT, check_programs
from data_pipeline.stored_json import read_json
from data_pipeline.synthetic.mixing import amplitude, equalizer, filtered, mix, quantize, reverberate, rms
from data_pipeline.synthetic.score import MAJOR, MINOR, PROGRESSIONS, Song, bass, drums, melody, other
from data_pipeline.synthetic.voice import sing
from data_pipeline.workers import worker_pool

VERSION = 1
"""Version of the songs, increased whenever the same arguments would give different ones."""

SETTINGS_FILE = "synthetic.json"
SPLITS = ("train", "test")
VOICE_RATIO_DB = 2.5

Renderer = Literal["waveforms", "fluidsynth"]
DEFAULT_RATES: dict[Renderer, int] = {"waveforms": 16_000, "fluidsynth": 44_100}
DEFAULT_FONTS: dict[Renderer, tuple[Path, ...]] = {"waveforms": (), "fluidsynth": (SOUND_FONT,)}
NAMES: dict[Renderer, str] = {"waveforms": "synthetic", "fluidsynth": "rendered"}
HIGHEST_RATES: dict[Renderer, int] = {"waveforms": 192_000, "fluidsynth": 96_000}
MAX_SONGS = 100_000
"""Songs of a split, at most."""


@dataclasses.dataclass(frozen=True)
class _Corpus:
    """Arguments of `synthesize` that the files depend on, in the order in which they are stored."""

    num_train: int
    num_test: int
    seconds: float
    sample_rate: int
    stereo: bool
    seed: int
    renderer: Renderer = "waveforms"
    families: bool = False
    sound_fonts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.renderer not in DEFAULT_RATES:
            raise CorpusArgumentError(f"renderer is {self.renderer!r}; it must be one of {', '.join(DEFAULT_RATES)}.")
        if (self.families or self.sound_fonts) and self.renderer != "fluidsynth":
            raise CorpusArgumentError(f"families and sound_fonts need the renderer fluidsynth; this is {self.renderer}.")
        if not (0 <= self.num_train <= MAX_SONGS and 0 <= self.num_test <= MAX_SONGS and self.num_train + self.num_test):
            raise CorpusArgumentError(
                f"num_train is {self.num_train} and num_test is {self.num_test}; each must lie between 0 and {MAX_SONGS}, and "
                "one must be positive."
            )
        if self.seed < 0:
            raise CorpusArgumentError(f"seed is {self.seed}; it must be 0 or more.")
        if not 4 <= self.seconds <= 3600:
            raise CorpusArgumentError(f"seconds is {self.seconds}; a song must last between 4 and 3600 seconds.")
        highest = HIGHEST_RATES[self.renderer]
        if not 8000 <= self.sample_rate <= highest:
            raise CorpusArgumentError(f"sample_rate is {self.sample_rate}; it must lie between 8000 and {highest} Hz.")

    def settings(self) -> dict[str, Any]:
        """Everything that the files depend on, JSON-serializable."""
        if self.renderer == "waveforms":
            values = dataclasses.asdict(self)
            del values["renderer"], values["families"], values["sound_fonts"]  # As in corpora that are older than these.
            return {"version": VERSION, **values}
        from data_pipeline.rendered.songs import VERSION as RENDERED_VERSION

        return {"version": RENDERED_VERSION, **dataclasses.asdict(self), "sound_fonts": list(self.sound_fonts)}


@dataclasses.dataclass(frozen=True)
class _Job:
    """A song to write."""

    corpus: _Corpus
    folder: Path
    split: str
    index: int


def synthesize(
    root: str | os.PathLike[str],
    *,
    num_train: int = 24,
    num_test: int = 4,
    seconds: float = 20.0,
    sample_rate: int | None = None,
    stereo: bool = False,
    seed: int = 0,
    renderer: Renderer = "waveforms",
    families: bool = False,
    sound_fonts: Sequence[str | os.PathLike[str]] = (),
    num_workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write a corpus of songs as root/{train,test}/NAME/{mixture,drums,bass,other,vocals}.wav, 16-bit PCM.

    The stems sum to the mixture exactly.  A song depends on the format and on (seed, split, index), not on the number of songs.
    Run again with the same arguments, it keeps complete songs and makes the missing ones.

    Args:
        root: folder of the corpus; created if it does not exist.
        num_train: number of training songs.
        num_test: number of test songs.
        seconds: duration of a song, 4 to 3600.
        sample_rate: in Hz, 8000 to 192000; with the renderer `fluidsynth` to 96000.  None for 16000, or 44100 with `fluidsynth`.
        stereo: write two channels with panned instruments instead of one; `fluidsynth` always does.
        seed: seed of all songs.
        renderer: `waveforms` computes all sounds; `fluidsynth` plays sound fonts and sings with speech synthesizers, see
            `data_pipeline.rendered.songs.render_song`.
        families: with `fluidsynth`, write stems such as guitar and piano in place of `other`.
        sound_fonts: with `fluidsynth`, sound fonts; each song uses one of them; if empty, FluidR3 of Debian.
        num_workers: number of processes; None for one per available processor, 1 to work in this process.
        progress: show a progress bar.

    Returns:
        `root` as a Path.

    Raises:
        CorpusArgumentError: an argument is out of its range.
        CorpusError: `root` holds another corpus; a program, a sound font or a package is missing; a worker process dies.
    """
    rate = sample_rate if sample_rate is not None else DEFAULT_RATES.get(renderer, 0)
    fonts = tuple(str(real_path(Path(font))) for font in sound_fonts or DEFAULT_FONTS.get(renderer, ()))
    in_stereo = stereo or renderer == "fluidsynth"
    corpus = _Corpus(num_train, num_test, seconds, rate, in_stereo, seed, renderer, families, fonts)
    if num_workers is not None and num_workers < 1:
        raise CorpusArgumentError(f"num_workers is {num_workers}; it must be positive, or None for one per processor.")
    root = Path(root)
    if renderer == "fluidsynth":
        check_programs([Path(font) for font in fonts])
    _claim(root, corpus.settings())
    jobs = [
        _Job(corpus, folder, split, index)
        for split, count in zip(SPLITS, (num_train, num_test), strict=True)
        for index in range(count)
        if not (folder := root / split / f"{NAMES[renderer]}_{split}_{index:03d}").exists()
    ]
    _run(jobs, min(num_workers or available_processors(), len(jobs)), progress)
    return root


def render_song(
    seed: int, split: str, index: int, *, seconds: float = 20.0, sample_rate: int = 16_000, stereo: bool = False
) -> dict[str, npt.NDArray[np.int16]]:
    """Render the stems of one song.

    Args:
        seed: seed of the corpus.
        split: "train" or "test".
        index: number of the song in its split.
        seconds: duration.
        sample_rate: in Hz.
        stereo: two channels instead of one.

    Returns:
        int16 (channels, samples) by name of the stem.  Their sum is the mixture and does not clip.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scale = MAJOR if rng.random() < 0.5 else MINOR
    first, second = rng.choice(len(PROGRESSIONS[scale]), size=2, replace=False)
    song = Song(
        sample_rate=sample_rate,
        num_samples=round(seconds * sample_rate),
        stereo=stereo,
        beat_s=60 / rng.uniform(78, 132),
        key=int(rng.integers(12)),
        scale=scale,
        progressions=(PROGRESSIONS[scale][first], PROGRESSIONS[scale][second]),
        bars_per_section=int(rng.choice([2, 4])),
    )
    stems = {
        "drums": drums(song, rng) * amplitude(rng.uniform(3, 7)),
        "bass": bass(song, rng) * amplitude(rng.uniform(4, 8)),
        "other": other(song, rng) * amplitude(rng.uniform(-2, 2)),
    }
    vocals = sing(melody(song, rng), song.num_samples, sample_rate, rng)[None]
    vocals = reverberate(np.repeat(vocals, 2 if stereo else 1, axis=0), sample_rate, rng.uniform(-26, -18), rng)

    tilt = rng.uniform(-0.7, 0.7, size=2)
    response = equalizer(mix(stems), sample_rate, tilt[0])  # One filter for all stems keeps their sum a mix.
    stems = {name: filtered(stem, response) for name, stem in stems.items()}
    vocals = filtered(vocals, equalizer(vocals, sample_rate, tilt[1]))
    ratio = amplitude(rng.uniform(-VOICE_RATIO_DB, VOICE_RATIO_DB))
    stems["vocals"] = vocals * (ratio * rms(mix(stems)) / rms(vocals))
    return quantize(stems)


def _claim(root: Path, settings: dict[str, object]) -> None:
    """Store the settings of the corpus in `root`, or check that they equal those stored there."""
    path = root / SETTINGS_FILE
    if path.exists():
        found = read_json(path, dict[str, Any], CorpusError, "Choose another folder.")
        changed = [
            f"{name} {found.get(name)} (asked for: {value})" for name, value in settings.items() if found.get(name) != value
        ]
        if changed:
            raise CorpusError(f"{root} holds a corpus made with {', '.join(changed)}. Remove it or choose another folder.")
        return
    if any((root / split).exists() for split in SPLITS):
        raise CorpusError(
            f"{root} holds {' or '.join(SPLITS)} but not {SETTINGS_FILE}: it is another corpus. Choose another folder."
        )
    write_text(path, json.dumps(settings, indent=2) + "\n")


def _run(jobs: list[_Job], num_workers: int, progress: bool) -> None:
    with progress_bar(len(jobs), "synthesize", "song", show=progress) as bar:
        if num_workers <= 1:
            for job in jobs:
                _write_song(job)
                bar.update()
            return
        try:
            with worker_pool(num_workers) as pool:
                for future in concurrent.futures.as_completed([pool.submit(_write_song, job) for job in jobs]):
                    future.result()
                    bar.update()
        except concurrent.futures.process.BrokenProcessPool as error:
            raise CorpusError(
                "A worker process died: it was killed, perhaps for lack of memory. Complete songs are kept: close other "
                "programs, and rerun the same command."
            ) from error


def _write_song(job: _Job) -> None:
    """Write the folder of a song; it appears when it is complete."""
    corpus = job.corpus
    song = (corpus.seed, job.split, job.index)
    if corpus.renderer == "waveforms":
        stems = render_song(*song, seconds=corpus.seconds, sample_rate=corpus.sample_rate, stereo=corpus.stereo)
    else:
        from data_pipeline.rendered import songs as rendered

        stems = rendered.render_song(
            *song,
            seconds=corpus.seconds,
            sample_rate=corpus.sample_rate,
            families=corpus.families,
            sound_fonts=[Path(font) for font in corpus.sound_fonts],
        )
    mixture = np.sum(list(stems.values()), axis=0, dtype=np.int32)
    with replacing(job.folder) as temporary:
        temporary.mkdir()
        for name, signal in (("mixture", mixture), *stems.items()):
            scipy.io.wavfile.write(temporary / f"{name}.wav", corpus.sample_rate, np.asarray(signal, np.int16).T)
