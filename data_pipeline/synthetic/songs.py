"""A small multitrack corpus from a seed, in MUSDB18-HQ layout: no download, no sound fonts.

The songs are made so that no fixed filter separates them.  Voice and accompaniment have the same long-term spectrum from 100 Hz
up, sound at the same time, and share pitches; the best fixed gain per frequency gains less than 1 dB.  What differs is local: the
voice glides, trembles and moves its formants, the instruments hold their pitch.
"""

import concurrent.futures
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.io.wavfile
import scipy.signal

from data_pipeline.config import STEMS
from data_pipeline.errors import CorpusError
from data_pipeline.progress import progress_bar
from data_pipeline.synthetic.instruments import DrumKit, Instrument, add_at
from data_pipeline.synthetic.voice import SungNote, sing
from data_pipeline.workers import worker_pool

FloatArray = npt.NDArray[np.float64]

VERSION = 1
"""Raised whenever the same arguments would give other songs."""

SETTINGS_FILE = "synthetic.json"
SPLITS = ("train", "test")
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
PROGRESSIONS = {
    MAJOR: ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (0, 2, 3, 4)),
    MINOR: ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 6), (5, 6, 0, 0), (0, 2, 6, 3)),
}

# The long-term spectrum that both voice and accompaniment are equalised to: energy per octave in dB, near that of pop records but
# with more treble, so that all octaves matter.
OCTAVE_CENTRES = 62.5 * 2.0 ** np.arange(9)
OCTAVE_DB = np.array((-12.0, -5.0, 0.0, 0.0, -1.0, -4.0, -7.0, -10.0, -14.0))
LOUDNESS_DBFS = -19.0
VOICE_RATIO_DB = 2.5


@dataclasses.dataclass(frozen=True)
class _Song:
    """The score of a song: what all its players have to agree on."""

    sample_rate: int
    num_samples: int
    stereo: bool
    beat_s: float
    key: int
    scale: tuple[int, ...]
    progressions: tuple[tuple[int, ...], tuple[int, ...]]
    bars_per_section: int

    @property
    def num_bars(self) -> int:
        return int(self.num_samples / self.sample_rate / (4 * self.beat_s)) + 1

    def section(self, bar: int) -> int:
        return bar // self.bars_per_section % 2

    def degree(self, bar: int) -> int:
        progression = self.progressions[self.section(bar)]
        return progression[bar % len(progression)]

    def pitch(self, degree: int) -> int:
        """MIDI number of a scale degree; degree 0 is the key note from F2 to E3, about 87 to 165 Hz."""
        octave, step = divmod(degree, len(self.scale))
        return 41 + self.key + 12 * octave + self.scale[step]

    def sample(self, beats: float) -> int:
        return round(beats * self.beat_s * self.sample_rate)


def synthesize(
    root: str | os.PathLike[str],
    *,
    num_train: int = 24,
    num_test: int = 4,
    seconds: float = 20.0,
    sample_rate: int = 16_000,
    stereo: bool = False,
    seed: int = 0,
    num_workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes a corpus of songs as root/{train,test}/NAME/{mixture,drums,bass,other,vocals}.wav, 16-bit PCM.

    The stems sum to the mixture sample for sample.  A song depends on (seed, split, index) and on the format only, not on how
    many songs there are.  Run again with the same arguments it keeps the songs that are complete and makes the others.

    Args:
        root: folder of the corpus; made where it does not exist.
        num_train: songs for training.
        num_test: songs for testing.
        seconds: length of a song, at least 4.
        sample_rate: in Hz, at least 8000.
        stereo: two channels with instruments panned; else one.
        seed: draws everything.
        num_workers: processes; None takes one per available core, 1 works in this process.
        progress: show a progress bar.

    Returns:
        `root` as a Path.

    Raises:
        CorpusError: an argument is out of its range, or `root` holds a corpus made with other arguments.
    """
    if num_train < 0 or num_test < 0 or num_train + num_test == 0:
        raise CorpusError(
            f"num_train is {num_train} and num_test is {num_test}; neither may be negative and one must be positive."
        )
    if not 4 <= seconds <= 3600:
        raise CorpusError(f"seconds is {seconds}; a song must last between 4 and 3600 seconds.")
    if not 8000 <= sample_rate <= 192_000:
        raise CorpusError(f"sample_rate is {sample_rate}; it must lie between 8000 and 192000 Hz.")
    if num_workers is not None and num_workers < 1:
        raise CorpusError(f"num_workers is {num_workers}; it must be positive, or None for one per core.")
    root = Path(root)
    settings: dict[str, object] = {
        "version": VERSION,
        "num_train": num_train,
        "num_test": num_test,
        "seconds": seconds,
        "sample_rate": sample_rate,
        "stereo": stereo,
        "seed": seed,
    }
    _claim(root, settings)
    jobs = []
    for split, count in zip(SPLITS, (num_train, num_test), strict=True):
        for index in range(count):
            folder = root / split / f"synthetic_{split}_{index:03d}"
            if not folder.exists():
                jobs.append((folder, seed, split, index, seconds, sample_rate, stereo))
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _run(jobs, min(num_workers, len(jobs)), progress)
    return root


def render_song(
    seed: int, split: str, index: int, *, seconds: float = 20.0, sample_rate: int = 16_000, stereo: bool = False
) -> dict[str, npt.NDArray[np.int16]]:
    """The stems of one song: int16 (channels, samples) by stem name; their sum is the mixture and does not clip."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    scale = MAJOR if rng.random() < 0.5 else MINOR
    first, second = rng.choice(len(PROGRESSIONS[scale]), size=2, replace=False)
    song = _Song(
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
        "drums": _drums(song, rng) * _gain(rng.uniform(3, 7)),
        "bass": _bass(song, rng) * _gain(rng.uniform(4, 8)),
        "other": _other(song, rng) * _gain(rng.uniform(-2, 2)),
    }
    vocals = sing(_melody(song, rng), song.num_samples, sample_rate, rng)[None]
    vocals = _reverberate(np.repeat(vocals, 2 if stereo else 1, axis=0), song, rng.uniform(-26, -18), rng)

    tilt = rng.uniform(-0.7, 0.7, size=2)
    response = _equaliser(_mix(stems), sample_rate, tilt[0])  # One filter for all: stems stay a mix.
    stems = {name: _filter(stem, response) for name, stem in stems.items()}
    vocals = _filter(vocals, _equaliser(vocals, sample_rate, tilt[1]))
    accompaniment = _mix(stems)
    ratio = _gain(rng.uniform(-VOICE_RATIO_DB, VOICE_RATIO_DB))
    stems["vocals"] = vocals * (ratio * _rms(accompaniment) / _rms(vocals))
    return _quantise(stems)


def _quantise(stems: dict[str, FloatArray]) -> dict[str, npt.NDArray[np.int16]]:
    """One gain for all stems, so that the mixture has its loudness and nothing clips; then rounding, stem by stem."""
    mixture = _mix(stems)
    peak = max(np.abs(signal).max() for signal in (mixture, *stems.values()))
    gain = 32767 * min(_gain(LOUDNESS_DBFS) / _rms(mixture), 0.99 / peak)
    return {name: np.round(gain * stems[name]).astype(np.int16) for name in STEMS}


def _mix(stems: dict[str, FloatArray]) -> FloatArray:
    return np.sum(list(stems.values()), axis=0)


def _gain(decibels: float) -> float:
    return float(10 ** (decibels / 20))


def _rms(signal: FloatArray) -> float:
    return float(np.sqrt(np.mean(signal**2)))


def _melody(song: _Song, rng: np.random.Generator) -> list[SungNote]:
    """Phrases of a random walk on the scale, with pauses."""
    seconds = song.num_samples / song.sample_rate
    voice = rng.uniform(46, 60)  # From a bass to an alto: 117 to 262 Hz.
    centre = min(range(-7, 22), key=lambda degree: abs(song.pitch(degree) - voice))
    activity = rng.uniform(0.55, 0.67)
    onset, degree, notes = rng.uniform(0.1, 0.8), centre, []
    while onset < seconds - 0.8:
        phrase_s = min(rng.uniform(1.5, 4.5), seconds - onset - 0.1)
        end, opens = onset + phrase_s, True
        while onset < end - 0.15:
            bar = min(int(onset / (4 * song.beat_s)), song.num_bars - 1)
            length = float(rng.choice([0.5, 0.5, 0.75, 1.0, 1.0, 1.5])) * song.beat_s
            length = end - onset if end - onset - length < 0.3 else length
            degree += int(rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3]))
            degree += int(np.clip(round((centre - degree) / 4), -2, 2))
            if rng.random() < 0.4:  # Rest on the root, third or fifth of the chord.
                degree = min(
                    (song.degree(bar) + step for step in range(-14, 22) if step % 7 in (0, 2, 4)), key=lambda d: abs(d - degree)
                )
            notes.append(SungNote(onset, length * (1.0 if rng.random() < 0.8 else 0.85), song.pitch(degree), opens))
            onset, opens = onset + length, False
        onset = end + phrase_s * (1 / activity - 1) * rng.uniform(0.7, 1.3)
    return notes


def _drums(song: _Song, rng: np.random.Generator) -> FloatArray:
    kit = DrumKit.draw(song.sample_rate, rng)
    signal = np.zeros((2 if song.stereo else 1, song.num_samples))
    pans = {"kick": 0.5, "snare": 0.5, "hat": rng.uniform(0.25, 0.75), "tom": rng.uniform(0.2, 0.8)}
    kicks = [np.flatnonzero(rng.random(8) < (0.9, 0.1, 0.2, 0.3, 0.7, 0.3, 0.2, 0.2)) / 2 for _ in range(2)]
    hat_step = float(rng.choice([0.25, 0.5, 0.5, 1.0]))

    def hit(beat: float, sound: FloatArray, pan: float, gain: float) -> None:
        _place(signal, song.sample(beat), sound, pan, gain * _gain(rng.uniform(-2, 2)))

    for bar in range(song.num_bars):
        for beat in kicks[song.section(bar)]:
            hit(4 * bar + beat, kit.kick, pans["kick"], 1.2)
        for beat in (1, 3):
            hit(4 * bar + beat, kit.snare, pans["snare"], 1.0)
        for position in np.arange(0, 4, hat_step):
            opened = rng.random() < 0.12
            hit(4 * bar + position, kit.open_hat if opened else kit.closed_hat, pans["hat"], 1.0 if position % 1 == 0 else 0.6)
        if bar % song.bars_per_section == song.bars_per_section - 1:  # A fill leads to the next section.
            for position in (3.0, 3.25, 3.5, 3.75):
                if rng.random() < 0.7:
                    hit(4 * bar + position, kit.tom, pans["tom"], 0.9)
    return signal / max(_rms(signal), 1e-9)


def _bass(song: _Song, rng: np.random.Generator) -> FloatArray:
    bass = Instrument(song.sample_rate, rng, sustained=False, decay_s=0.7, extra_tilt=0.5)
    signal = np.zeros((2 if song.stereo else 1, song.num_samples))
    patterns = [np.flatnonzero(rng.random(8) < (1, 0.2, 0.4, 0.4, 0.8, 0.3, 0.5, 0.4)) for _ in range(2)]
    for bar in range(song.num_bars):
        pattern = patterns[song.section(bar)]
        for eighth, following in zip(pattern, np.append(pattern[1:], 8), strict=True):
            step = song.degree(bar) + (int(rng.choice([0, 4, 7])) if eighth and rng.random() < 0.3 else 0)
            pitch = song.pitch(step) - 24
            pitch += 12 if pitch < 28 else -12 if pitch > 43 else 0
            length = song.sample((following - eighth) / 2)
            _place(signal, song.sample(4 * bar + eighth / 2), bass.play(pitch, length), 0.5, rng.uniform(0.8, 1.1))
    return signal / max(_rms(signal), 1e-9)


def _other(song: _Song, rng: np.random.Generator) -> FloatArray:
    """A pad, and two of: plucked chords, an arpeggio, a sustained counter-melody; those may rest in a section."""
    signal = np.zeros((2 if song.stereo else 1, song.num_samples))
    players = [_pad, *rng.permutation(np.array([_comping, _arpeggio, _counter_melody], object))[:2]]
    for player in players:
        layer = np.zeros_like(signal)
        resting = int(rng.integers(2)) if player is not _pad and rng.random() < 0.5 else None
        bars = [bar for bar in range(song.num_bars) if song.section(bar) != resting]
        player(song, bars, layer, rng.uniform(0.1, 0.9), rng)
        signal += layer / max(_rms(layer), 1e-9) * _gain(rng.uniform(-3, 3))
    return _reverberate(signal, song, rng.uniform(-26, -18), rng)


def _pad(song: _Song, bars: list[int], layer: FloatArray, pan: float, rng: np.random.Generator) -> None:
    instrument = Instrument(song.sample_rate, rng, sustained=True)
    low = int(rng.integers(0, 4))
    for bar in bars:
        for step in (0, 2, 4):
            degree = low + (song.degree(bar) + step - low) % 14
            _place(layer, song.sample(4 * bar), instrument.play(song.pitch(degree), song.sample(4)), pan)


def _comping(song: _Song, bars: list[int], layer: FloatArray, pan: float, rng: np.random.Generator) -> None:
    instrument = Instrument(song.sample_rate, rng, sustained=False)
    low = int(rng.integers(2, 8))
    pattern = np.flatnonzero(rng.random(8) < (0.9, 0.4, 0.5, 0.6, 0.6, 0.5, 0.5, 0.6))
    for bar in bars:
        for eighth in pattern:
            for step in (0, 2, 4):
                degree = low + (song.degree(bar) + step - low) % 7
                gain = rng.uniform(0.7, 1.1)
                _place(layer, song.sample(4 * bar + eighth / 2), instrument.play(song.pitch(degree), song.sample(1)), pan, gain)


def _arpeggio(song: _Song, bars: list[int], layer: FloatArray, pan: float, rng: np.random.Generator) -> None:
    instrument = Instrument(song.sample_rate, rng, sustained=False, decay_s=0.5)
    low = int(rng.integers(4, 12))
    order = rng.permutation([0, 2, 4, 7, 9, 11])
    length = float(rng.choice([0.25, 0.5, 0.5]))
    for bar in bars:
        for number, beat in enumerate(np.arange(0, 4, length)):
            degree = low + (song.degree(bar) - low) % 7 + int(order[number % len(order)])
            note = instrument.play(song.pitch(degree), song.sample(2 * length))
            _place(layer, song.sample(4 * bar + beat), note, pan, rng.uniform(0.7, 1.1))


def _counter_melody(song: _Song, bars: list[int], layer: FloatArray, pan: float, rng: np.random.Generator) -> None:
    instrument = Instrument(song.sample_rate, rng, sustained=True)
    low = int(rng.integers(4, 10))
    rhythms = ((0.0, 2.0), (0.0, 1.0, 2.0), (0.0, 3.0), (1.0, 2.0, 3.0))
    for bar in bars:
        onsets = rhythms[rng.integers(len(rhythms))]
        for onset, following in zip(onsets, (*onsets[1:], 4.0), strict=True):
            degree = low + (song.degree(bar) + int(rng.choice([0, 2, 4, 5])) - low) % 7
            note = instrument.play(song.pitch(degree), song.sample(0.95 * (following - onset)))
            _place(layer, song.sample(4 * bar + onset), note, pan, rng.uniform(0.7, 1.1))


def _place(signal: FloatArray, start: int, sound: FloatArray, pan: float, gain: float = 1.0) -> None:
    """Adds a sound at sample `start`; in stereo at `pan` between 0 (left) and 1 (right), at constant power."""
    if len(signal) == 1:
        add_at(signal[0], start, sound, gain)
    else:
        add_at(signal[0], start, sound, gain * np.sqrt(2) * np.cos(pan * np.pi / 2))
        add_at(signal[1], start, sound, gain * np.sqrt(2) * np.sin(pan * np.pi / 2))


def _reverberate(signal: FloatArray, song: _Song, level_db: float, rng: np.random.Generator) -> FloatArray:
    """Adds a decaying noise tail at `level_db` relative to the dry signal, another one for each channel."""
    time = np.arange(round(0.4 * song.sample_rate)) / song.sample_rate
    tails = rng.standard_normal((len(signal), len(time))) * np.exp(-time / rng.uniform(0.06, 0.15))
    wet = scipy.signal.fftconvolve(signal, tails, axes=1)[:, : song.num_samples]
    return signal + wet * (_gain(level_db) * _rms(signal) / max(_rms(wet), 1e-9))


def _equaliser(signal: FloatArray, sample_rate: int, tilt_db: float) -> FloatArray:
    """Gains over the bins of `_filter` that bring `signal` near the long-term spectrum, tilted by `tilt_db` per octave."""
    size = _filter_size(signal.shape[-1])
    power = np.sum(np.abs(np.fft.rfft(signal, size)) ** 2, axis=0)
    frequencies = np.fft.rfftfreq(size, 1 / sample_rate)
    centres = OCTAVE_CENTRES[np.sqrt(2) * OCTAVE_CENTRES <= sample_rate / 2 * 1.5]
    position = np.log2(np.maximum(frequencies, 1) / OCTAVE_CENTRES[0])
    energy = np.array([power[np.abs(position - octave) <= 0.5].sum() for octave in range(len(centres))])
    wanted = OCTAVE_DB[: len(centres)] + tilt_db * (np.arange(len(centres)) - 3)
    gains_db = wanted - 10 * np.log10(np.maximum(energy / energy.sum(), 1e-6))
    gains_db -= np.median(gains_db)
    # What hardly is there cannot be raised: below its lowest note a voice has nothing but noise.
    gains_db = np.clip(gains_db, -18, 18)
    return np.asarray(10 ** (np.interp(position, np.arange(len(centres)), gains_db) / 20))


def _filter_size(num_samples: int) -> int:
    return int(scipy.fft.next_fast_len(num_samples + 4096, real=True))


def _filter(signal: FloatArray, response: FloatArray) -> FloatArray:
    """`signal` (channels, samples) through a zero-phase filter."""
    size = _filter_size(signal.shape[-1])
    return np.fft.irfft(np.fft.rfft(signal, size) * response, size)[:, : signal.shape[-1]]


def _claim(root: Path, settings: dict[str, object]) -> None:
    """Records the settings of the corpus in `root`, or checks that they are the ones it was begun with."""
    path = root / SETTINGS_FILE
    if path.exists():
        found = json.loads(path.read_text())
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
    root.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(settings, indent=2) + "\n")
    temporary.replace(path)


def _run(jobs: list[tuple[Path, int, str, int, float, int, bool]], num_workers: int, progress: bool) -> None:
    with progress_bar(len(jobs), "synthesize", "song", show=progress) as bar:
        if num_workers <= 1:
            for job in jobs:
                _write_song(*job)
                bar.update()
            return
        with worker_pool(num_workers) as pool:
            for future in concurrent.futures.as_completed([pool.submit(_write_song, *job) for job in jobs]):
                future.result()
                bar.update()


def _write_song(folder: Path, seed: int, split: str, index: int, seconds: float, sample_rate: int, stereo: bool) -> None:
    """Writes one song under a temporary name, then renames its folder: a song that is there is complete."""
    stems = render_song(seed, split, index, seconds=seconds, sample_rate=sample_rate, stereo=stereo)
    mixture = np.sum(list(stems.values()), axis=0, dtype=np.int32)
    temporary = folder.parent.parent / f".{folder.name}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    folder.parent.mkdir(exist_ok=True)
    for name, signal in (("mixture", mixture), *stems.items()):
        scipy.io.wavfile.write(temporary / f"{name}.wav", sample_rate, np.asarray(signal, np.int16).T)
    temporary.rename(folder)
