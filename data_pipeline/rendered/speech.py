"""Spoken words of the programs flite and espeak-ng, taken apart by the WORLD vocoder so that they can be sung.

The source: M. Morise, F. Yokomori and K. Ozawa, "WORLD: a vocoder-based high-quality speech synthesis system for real-time
applications", IEICE Transactions E99-D, 2016.
"""

import dataclasses
import functools
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.signal
import soundfile

from data_pipeline.rendered.programs import run

RATE = 32_000
FRAME_S = 0.005
_SILENT_DB = -40.0
_FADE = 0.03
"""Share of the highest frequency of a voice, over which the band above it sets in."""

FloatArray = npt.NDArray[np.float64]

FLITE = {"slt": True, "rms": False, "awb": False, "kal16": False}
"""Voices of flite that are sampled at 16 kHz, and whether they are high."""

ESPEAK_LANGUAGES = ("en-us", "en-us", "en-gb", "en-gb-scotland", "de", "fr-fr", "es", "it", "pt-br", "pl", "sv", "ru", "el")
ESPEAK_HIGH = ("f1", "f2", "f3", "f4", "f5", "anika", "annie", "belinda", "linda", "shelby", "steph", "klatt2")
ESPEAK_LOW = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "adam", "benjamin", "caleb", "edward", "iven", "paul", "klatt")


@dataclasses.dataclass(frozen=True)
class Speaker:
    """A voice of a program.

    Attributes:
        program: "flite" or "espeak-ng".
        name: of the voice.
        high: a woman's or child's voice rather than a man's.
    """

    program: str
    name: str
    high: bool


@dataclasses.dataclass(frozen=True)
class Word:
    """A spoken word without the silence around it, in frames of `FRAME_S`.

    Attributes:
        pitch: MIDI numbers, float64 (frames,); 0 where unvoiced.
        envelope: power spectrum, float64 (frames, bins) up to half of `RATE`.
        aperiodicity: share of noise, float64 (frames, bins).
    """

    pitch: FloatArray
    envelope: FloatArray
    aperiodicity: FloatArray


def draw_speaker(rng: np.random.Generator) -> Speaker:
    """Draw a voice: more often one of flite's, which are recordings of people, than one of espeak-ng's."""
    if rng.random() < 0.6:
        name = str(rng.choice(("slt", "slt", "slt", "rms", "awb", "kal16")))
        return Speaker("flite", name, FLITE[name])
    high = bool(rng.random() < 0.5)
    variant = str(rng.choice(ESPEAK_HIGH if high else ESPEAK_LOW))
    return Speaker("espeak-ng", f"{rng.choice(ESPEAK_LANGUAGES)}+{variant}", high)


@functools.lru_cache(maxsize=64)
def speak(speaker: Speaker, text: str, tilt_db: float) -> Word:
    """Speak a word.

    Args:
        speaker: the voice.
        text: the word.
        tilt_db: loss per octave above the highest frequency of the voice, which is 8 or 11 kHz.

    Raises:
        CorpusError: the program is missing or fails.
    """
    import pyworld

    samples, rate = _say(speaker, text)
    samples = scipy.signal.resample_poly(samples, RATE, rate)
    rng = np.random.default_rng(len(samples))
    samples = samples + 1e-6 * rng.standard_normal(len(samples))  # WORLD divides by the power.
    hz, times_s = pyworld.dio(samples, RATE, frame_period=1000 * FRAME_S, f0_floor=60, f0_ceil=500)
    hz = pyworld.stonemask(samples, hz, times_s, RATE)
    envelope, aperiodicity = pyworld.cheaptrick(samples, hz, times_s, RATE), pyworld.d4c(samples, hz, times_s, RATE)
    level_db = 10 * np.log10(envelope.mean(1))
    loud = np.flatnonzero(level_db > level_db.max() + _SILENT_DB)
    kept = slice(loud[0], loud[-1] + 1)
    pitch = np.where(hz > 0, 69 + 12 * np.log2(np.maximum(hz, 1) / 440), 0.0)
    _extend(envelope, aperiodicity, rate / 2, tilt_db)
    return Word(pitch[kept], envelope[kept], aperiodicity[kept])


def _say(speaker: Speaker, text: str) -> tuple[FloatArray, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "word.wav")
        if speaker.program == "flite":
            run(["flite", "-voice", speaker.name, "-t", text, "-o", str(path)])
        else:
            run(["espeak-ng", "-v", speaker.name, "-s", "140", "-w", str(path), text])
        samples, rate = soundfile.read(path, dtype="float64")
    return samples, rate


def _extend(envelope: FloatArray, aperiodicity: FloatArray, highest_hz: float, tilt_db: float) -> None:
    """Fill the band above the voice's highest frequency with noise that continues the spectrum, in place."""
    hz = np.linspace(0, RATE / 2, envelope.shape[1])
    reference = (hz > 0.75 * highest_hz) & (hz < (1 - 2 * _FADE) * highest_hz)
    level_db = 10 * np.log10(envelope[:, reference]).mean(1, keepdims=True)
    continued_db = level_db - tilt_db * np.log2(np.maximum(hz, 1) / (0.85 * highest_hz))
    share = np.clip((hz / highest_hz - 1 + 2 * _FADE) / _FADE, 0, 1)
    envelope[:] = 10 ** (((1 - share) * 10 * np.log10(envelope) + share * continued_db) / 10)
    aperiodicity[:] = (1 - share) * aperiodicity + share
