"""Singers of a rendered song: spoken words sung to a melody, doubled and in harmony, and choirs."""

import dataclasses

import numpy as np
import numpy.typing as npt
import scipy.signal

from data_pipeline.rendered.score import MelodyNote
from data_pipeline.rendered.speech import FRAME_S, RATE, FloatArray, Speaker, Word, speak
from data_pipeline.synthetic.voice import SungNote, smooth
from data_pipeline.synthetic.voice import sing as sing_formants

WORDS = (
    "love", "night", "fire", "river", "dream", "heart", "away", "fall", "summer", "stranger", "golden", "road", "home",
    "again", "light", "shadow", "run", "over", "water", "never", "always", "hold", "me", "now", "the", "sky", "burn", "slow",
    "we", "were", "young", "wild", "ocean", "memory", "broken", "city", "morning", "rain", "every", "little", "whisper",
    "turn", "wheel", "closer", "deep", "high", "silent", "thunder", "walk", "alone", "under", "moon", "tonight", "you", "and",
    "I", "remember", "dance", "in", "dark", "blue", "time", "leave", "stay", "cold", "hands", "eyes", "tell", "world",
    "change", "keep", "believe", "feel", "what", "this", "so", "long", "goodbye", "baby", "yeah", "oh", "ah", "la", "hey",
    "ooh", "na", "no", "one", "more", "day", "life", "free", "break", "sun", "storm", "star", "show", "down", "go", "come",
    "back", "find", "lost", "true", "lie", "soul", "money", "street", "girl", "boy",
)  # fmt: skip
CALLS = ("oh", "ah", "la", "ooh", "na", "hey", "yeah")

_ONSET_S, _CODA_S = 0.11, 0.09
"""Parts of a word at its beginning and end that a note does not stretch."""


@dataclasses.dataclass(frozen=True)
class Delivery:
    """How a singer sings.

    Attributes:
        spoken: follow the melody of speech about one pitch, as in rap, instead of notes.
        formants: factors of the frequencies of the spectral envelope below 500 Hz and above 3 kHz, linear between; above 1 for a
            shorter throat.
        breath: share of the voiced sound that is replaced by noise.
        tilt_db: gain of the spectrum per octave from 500 Hz to 2 kHz; positive for a strained voice.
        vibrato: depth in semitones, and rate in Hz.
        glide_s: time from one pitch to the next.
        scoop: largest interval below a note at which it begins, in semitones.
        drift: standard deviation of slow errors of pitch, in semitones.
        treble_db: loss per octave above the band of the program's voices.
    """

    spoken: bool
    formants: tuple[float, float]
    breath: float
    tilt_db: float
    vibrato: tuple[float, float]
    glide_s: float
    scoop: float
    drift: float
    treble_db: float


def draw_delivery(spoken: float, rng: np.random.Generator) -> Delivery:
    """Draw a delivery, which is spoken with a probability."""
    throat = rng.uniform(0.9, 1.15)
    return Delivery(
        spoken=bool(rng.random() < spoken),
        formants=(float(throat * rng.uniform(0.94, 1.06)), float(throat * rng.uniform(0.94, 1.06))),
        breath=float(rng.uniform(0, 0.5) if rng.random() < 0.3 else rng.uniform(0, 0.1)),
        tilt_db=float(rng.uniform(-1, 6)),
        vibrato=(float(rng.uniform(0, 0.5)), float(rng.uniform(4.6, 6.6))),
        glide_s=float(rng.uniform(0.03, 0.14)),
        scoop=float(rng.uniform(0, 3)),
        drift=float(rng.uniform(0.03, 0.2)),
        treble_db=float(round(rng.uniform(3, 18))),
    )


def sing(
    notes: list[MelodyNote],
    words: list[str],
    speaker: Speaker,
    delivery: Delivery,
    num_samples: int,
    sample_rate: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Sing a melody.

    Args:
        notes: the melody.
        words: a word for each note; an empty one holds the word before.
        speaker: whose voice.
        delivery: how.
        num_samples: length of the song.
        sample_rate: in Hz.
        rng: random generator of timing, pitch and loudness.

    Returns:
        float32 (num_samples,), at no particular level.
    """
    song = np.zeros(num_samples, np.float32)
    begin = 0
    for end, note in enumerate(notes, 1):
        if not (note.ends_phrase or end == len(notes)):
            continue
        phrase = _phrase(notes[begin:end], words[begin:end], speaker, delivery, rng)
        line = scipy.signal.resample_poly(phrase, sample_rate, RATE)
        start = round(max(notes[begin].onset_s + rng.normal(0, 0.015), 0) * sample_rate)
        length = min(len(line), num_samples - start)
        if length > 0:
            song[start : start + length] += line[:length].astype(np.float32)
        begin = end
    return song


def sing_synthetic(
    notes: list[MelodyNote], num_samples: int, sample_rate: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Sing a melody with the formants and the noise of `data_pipeline.synthetic.voice`: float32 (num_samples,)."""
    opens = [True, *(note.ends_phrase for note in notes[:-1])]
    sung = [SungNote(note.onset_s, note.length_s, note.pitch, first) for note, first in zip(notes, opens, strict=True)]
    return sing_formants(sung, num_samples, sample_rate, rng).astype(np.float32)


def draw_words(notes: list[MelodyNote], vocabulary: list[str], rng: np.random.Generator) -> list[str]:
    """Draw a word of the vocabulary for each note; one in six notes holds the word before."""
    words: list[str] = []
    for number in range(len(notes)):
        holds = number > 0 and not notes[number - 1].ends_phrase and rng.random() < 1 / 6
        words.append("" if holds else str(rng.choice(vocabulary)))
    return words


def _phrase(
    notes: list[MelodyNote], words: list[str], speaker: Speaker, delivery: Delivery, rng: np.random.Generator
) -> FloatArray:
    """Sing a phrase: float64 (samples,) at `RATE`."""
    import pyworld

    start_s = notes[0].onset_s
    num_frames = int((notes[-1].onset_s + notes[-1].length_s - start_s) / FRAME_S) + 1
    pieces: list[tuple[int, Word, FloatArray]] = []
    number = 0
    while number < len(notes):
        last = number
        while last + 1 < len(notes) and not words[last + 1]:
            last += 1
        frame = int((notes[number].onset_s - start_s) / FRAME_S)
        length = max(int((notes[last].onset_s + notes[last].length_s - start_s) / FRAME_S) - frame, 4)
        word = speak(speaker, words[number], delivery.treble_db)
        pieces.append((frame, word, _stretched(len(word.pitch), length)))
        number = last + 1
    bins = pieces[0][1].envelope.shape[1]
    envelope, aperiodicity = np.full((num_frames, bins), 1e-12), np.ones((num_frames, bins))
    spoken_pitch = np.zeros(num_frames)
    hz = np.linspace(0, RATE / 2, bins)
    shifted = np.minimum(np.arange(bins) / np.interp(hz, (500, 3000), delivery.formants), bins - 1)
    for frame, word, source in pieces:
        stop = min(frame + len(source), num_frames)
        source = source[: stop - frame]
        gain = rng.uniform(0.5, 1.0) ** 2
        envelope[frame:stop] = gain * _columns(np.exp(_rows(np.log(word.envelope + 1e-12), source)), shifted)
        aperiodicity[frame:stop] = _columns(_rows(word.aperiodicity, source), shifted)
        spoken_pitch[frame:stop] = word.pitch[np.round(source).astype(int)]
    envelope *= 10 ** (delivery.tilt_db * np.log2(np.maximum(hz, 500) / 500).clip(0, 2) / 10)
    aperiodicity = np.clip(aperiodicity + delivery.breath * (1 - aperiodicity) * (hz > 1500), 1e-3, 1 - 1e-6)
    pitch = _spoken(spoken_pitch, notes) if delivery.spoken else _sung(notes, start_s, num_frames, delivery, rng)
    f0 = np.where(spoken_pitch > 0, 440 * 2 ** ((pitch - 69) / 12), 0.0)
    fade = np.clip(np.minimum(np.arange(num_frames), np.arange(num_frames)[::-1]) / 4, 0, 1)[:, None]
    return np.asarray(pyworld.synthesize(f0, envelope * fade**2 + 1e-16, aperiodicity, RATE, 1000 * FRAME_S))


def _stretched(num_frames: int, length: int) -> FloatArray:
    """Frame of a word at each of `length` frames of a note: its middle is stretched or cut, its ends are not."""
    onset, coda = min(int(_ONSET_S / FRAME_S), num_frames // 3), min(int(_CODA_S / FRAME_S), num_frames // 4)
    if length <= onset + coda + 4:
        return np.linspace(0, num_frames - 1, length)
    middle = np.linspace(onset, num_frames - coda - 1, length - onset - coda)
    return np.concatenate([np.arange(onset), middle, np.arange(num_frames - coda, num_frames)])


def _rows(values: FloatArray, position: FloatArray) -> FloatArray:
    """Interpolate (frames, bins) at positions (n,) in frames."""
    low = np.minimum(position.astype(int), len(values) - 1)
    share = (position - low)[:, None]
    return np.asarray((1 - share) * values[low] + share * values[np.minimum(low + 1, len(values) - 1)])


def _columns(values: FloatArray, position: FloatArray) -> FloatArray:
    """Interpolate (frames, bins) at positions (n,) in bins."""
    low = position.astype(int)
    share = position - low
    return np.asarray((1 - share) * values[:, low] + share * values[:, np.minimum(low + 1, values.shape[1] - 1)])


def _spoken(pitch: FloatArray, notes: list[MelodyNote]) -> FloatArray:
    """Melody of speech about the middle pitch of the notes."""
    voiced = pitch > 0
    if not voiced.any():
        return np.full(len(pitch), float(notes[0].pitch))
    filled = np.interp(np.arange(len(pitch)), np.flatnonzero(voiced), pitch[voiced])
    return np.asarray(filled - filled.mean() + np.median([note.pitch for note in notes]))


def _sung(notes: list[MelodyNote], start_s: float, num_frames: int, delivery: Delivery, rng: np.random.Generator) -> FloatArray:
    """Pitch of a sung phrase, MIDI numbers (num_frames,)."""
    pitch, scoop, depth = np.full(num_frames, float(notes[0].pitch)), np.zeros(num_frames), np.zeros(num_frames)
    for note in notes:
        frame = int((note.onset_s - start_s) / FRAME_S)
        since_s = np.arange(num_frames - frame) * FRAME_S
        pitch[frame:] = note.pitch
        depth[frame:] = np.clip((since_s - 0.15) / 0.3, 0, 1) * rng.uniform(0.5, 1.2)
        if rng.random() < 0.3:
            scoop[frame:] = -delivery.scoop * rng.random() * np.exp(-since_s / 0.06)
    vibrato, rate_hz = delivery.vibrato
    turns = np.cumsum(rate_hz * (1 + 0.1 * smooth(rng.standard_normal(num_frames), 60))) * FRAME_S
    drift = smooth(rng.standard_normal(num_frames + 200), 100)[:num_frames] * 8 * delivery.drift
    glided = smooth(pitch, max(round(delivery.glide_s / FRAME_S), 1))
    return np.asarray(glided + scoop + vibrato * depth * np.sin(2 * np.pi * turns) + drift)
