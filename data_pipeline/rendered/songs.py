"""Rendered songs: a style, its players and singers, and the studio, all drawn from a seed."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.config import STEMS
from data_pipeline.rendered import effects
from data_pipeline.rendered.effects import Signal
from data_pipeline.rendered.fluidsynth import Part, play
from data_pipeline.rendered.players import play_bass, play_drums, play_part
from data_pipeline.rendered.programs import SOUND_FONT
from data_pipeline.rendered.score import MelodyNote, Score, draw_score, melody, transposed
from data_pipeline.rendered.singer import CALLS, WORDS, Delivery, draw_delivery, draw_words, sing, sing_synthetic
from data_pipeline.rendered.speech import draw_speaker
from data_pipeline.rendered.style import FAMILIES, STEM_OF_FAMILY, WITH_VIBRATO, Style, draw_style

VERSION = 2
"""Version of the songs, increased whenever the same arguments would give different ones."""

SPLITS = ("train", "test")
LEVELS_DB = {"drums": (-7.0, 2.0), "bass": (-5.0, 4.0), "other": (-8.0, 1.0), "vocals": (-5.0, 5.0)}
"""Lowest and highest level of a stem, by the root mean square of its sounding samples."""

LOUDNESS_DB = (-24.0, -9.0)
"""Lowest and highest level of a song, likewise."""

LOW_VOICE, HIGH_VOICE = ((40, 48), (60, 69)), ((50, 58), (69, 79))
"""Ranges, as MIDI numbers, of the lowest and the highest note of a low and of a high voice."""

_CHOIRS = (52, 53)
_PEAK = 0.97


@dataclasses.dataclass(frozen=True)
class _Hall:
    """Format of the song and its sound font."""

    num_samples: int
    sample_rate: int
    sound_font: Path

    def play(self, part: Part) -> Signal:
        return play(part, self.num_samples, self.sample_rate, self.sound_font)


def render_song(
    seed: int,
    split: str,
    index: int,
    *,
    seconds: float = 30.0,
    sample_rate: int = 44_100,
    families: bool = False,
    sound_fonts: Sequence[Path] = (SOUND_FONT,),
) -> dict[str, npt.NDArray[np.int16]]:
    """Render the stems of one song.

    Args:
        seed: seed of the corpus.
        split: "train" or "test".
        index: number of the song in its split.
        seconds: duration.
        sample_rate: in Hz.
        families: return the instruments of `other` by family, such as "guitar" and "piano".
        sound_fonts: each song is played with one of these.

    Returns:
        int16 (2, samples) by name of the stem.  Their sum is the mixture and does not clip.

    Raises:
        CorpusError: a program or a sound font is missing, or fails.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index, 1])
    name, style = draw_style(rng)
    font = sound_fonts[int(rng.integers(len(sound_fonts)))]
    hall = _Hall(round(seconds * sample_rate), sample_rate, font)
    chosen = _instruments(style, rng)
    score = draw_score(style, len(chosen), seconds, rng)
    stems = {"drums": _drums(score, style, hall, rng), "bass": _bass(score, name, style, hall, rng)}
    others: dict[str, Signal] = {}
    for number, family in enumerate(chosen):
        stem = STEM_OF_FAMILY.get(family, family)
        others[stem] = others.get(stem, np.float32(0)) + _instrument(score, number, family, style, hall, rng)
    level = 10 ** (rng.uniform(*LEVELS_DB["other"]) / 20) * effects.CHAIN_RMS
    together = effects.active_rms(_sum(others.values()))
    stems |= {family: signal * np.float32(level / max(together, 1e-9)) for family, signal in others.items()}
    stems["vocals"] = _vocals(score, name, hall, rng)
    for stem in ("drums", "bass", "vocals"):
        stems[stem] = effects.scaled(stems[stem], 10 ** (rng.uniform(*LEVELS_DB[stem]) / 20) * effects.CHAIN_RMS)
    stems = _mastered(stems, sample_rate, rng)
    if not families:
        stems = _as_musdb18(stems)
    return {stem: np.round(32767 * signal).astype(np.int16) for stem, signal in stems.items()}


def _instruments(style: Style, rng: np.random.Generator) -> list[str]:
    """Families of the instruments beside drums and bass; guitars may come twice."""
    names = list(style.families)
    weights = np.array([style.families[name] for name in names])
    count = min(int(rng.integers(style.parts[0], style.parts[1] + 1)), len(names))
    chosen = [names[number] for number in rng.choice(len(names), count, replace=False, p=weights / weights.sum())]
    return chosen + [family for family in chosen if "guitar" in family and rng.random() < 0.4]


def _drums(score: Score, style: Style, hall: _Hall, rng: np.random.Generator) -> Signal:
    part = Part(tuple(play_drums(score, style, rng)), int(rng.choice(style.drum_kits)), is_drums=True, reverb=rng.uniform(0, 0.3))
    signal = effects.apply(effects.instrument_chain("drums", False, rng), hall.play(part), hall.sample_rate)
    return effects.reverberate(signal, hall.sample_rate, rng, wet=(0.0, 0.2))


def _bass(score: Score, name: str, style: Style, hall: _Hall, rng: np.random.Generator) -> Signal:
    part = Part(tuple(play_bass(score, name, rng)), int(rng.choice(style.basses)), reverb=0.0)
    return effects.apply(effects.instrument_chain("bass", False, rng), hall.play(part), hall.sample_rate)


def _instrument(score: Score, number: int, family: str, style: Style, hall: _Hall, rng: np.random.Generator) -> Signal:
    driven = family == "electric guitar" and rng.random() < style.distortion
    program = int(rng.choice(FAMILIES[family]))
    pan = float(np.clip(rng.normal(0.5, 0.25), 0, 1))
    vibrato = float(rng.uniform(0.1, 0.9)) if family in WITH_VIBRATO and rng.random() < 0.6 else 0.0
    notes = tuple(play_part(score, number, family, rng))
    part = Part(notes, program, pan=pan, reverb=rng.uniform(0, 0.4), vibrato=vibrato)
    signal = effects.apply(effects.instrument_chain(family, driven, rng), hall.play(part), hall.sample_rate)
    if rng.random() < 0.5:
        signal = effects.reverberate(signal, hall.sample_rate, rng)
    return effects.scaled(signal, effects.CHAIN_RMS * 10 ** (rng.uniform(-8, 0) / 20))


def _vocals(score: Score, name: str, hall: _Hall, rng: np.random.Generator) -> Signal:
    """Lead vocals, maybe doubled, in harmony, and with a choir."""
    lead = _Lead.draw(score, name, rng)
    signal = np.zeros((2, hall.num_samples), np.float32)
    if not lead.notes:
        return signal
    middle = float(np.clip(rng.normal(0.5, 0.04), 0, 1))
    signal += effects.placed(effects.scaled(lead.sing(hall, rng)[None], 0.1)[0], middle)
    if rng.random() < 0.35:  # Doubled, often at both sides.
        gain, width = rng.uniform(0.2, 0.8), rng.uniform(0, 0.5)
        for side in (-1, 1)[: int(rng.integers(1, 3))]:
            signal += gain * effects.placed(effects.scaled(lead.sing(hall, rng)[None], 0.1)[0], 0.5 + side * width)
    if rng.random() < 0.3 and not lead.delivery.spoken:
        for degrees in rng.choice([-3, -2, 2, 4], int(rng.integers(1, 3)), replace=False):
            second = dataclasses.replace(lead, notes=transposed(score, lead.notes, int(degrees)))
            voice = effects.scaled(second.sing(hall, rng)[None], 0.1 * rng.uniform(0.2, 0.7))[0]
            signal += effects.placed(voice, float(np.clip(rng.normal(0.5, 0.25), 0, 1)))
    signal = effects.apply(effects.vocal_chain(rng), signal, hall.sample_rate)
    if rng.random() < 0.15:
        signal = signal + _choir(score, hall, rng)
    return effects.reverberate(signal, hall.sample_rate, rng, wet=(0.0, 0.3)) if rng.random() < 0.85 else signal


@dataclasses.dataclass(frozen=True)
class _Lead:
    """A singer with a melody and words; `speaker_seed` draws the voice, None stands for formant synthesis."""

    notes: list[MelodyNote]
    words: list[str]
    delivery: Delivery
    speaker_seed: int | None

    @classmethod
    def draw(cls, score: Score, name: str, rng: np.random.Generator) -> "_Lead":
        """Draw a singer for a song of a style with a name."""
        speaker_seed = None if rng.random() < 0.12 else int(rng.integers(2**31))
        high = bool(rng.random() < 0.5) if speaker_seed is None else draw_speaker(np.random.default_rng(speaker_seed)).high
        lowest, highest = (int(rng.integers(*limits)) for limits in (HIGH_VOICE if high else LOW_VOICE))
        delivery = draw_delivery(0.6 if name == "hip hop" else 0.06, rng)
        notes = melody(score, lowest, highest, float(rng.uniform(0.85, 1.0) if delivery.spoken else rng.uniform(0.5, 1.0)), rng)
        calls_only = rng.random() < 0.08
        vocabulary = list(CALLS if calls_only else rng.choice(WORDS, 24, replace=False))
        return cls(notes, draw_words(notes, vocabulary, rng), delivery, speaker_seed)

    def sing(self, hall: _Hall, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """Sing once: float32 (samples,).  No two times are alike."""
        if self.speaker_seed is None:
            return sing_synthetic(self.notes, hall.num_samples, hall.sample_rate, rng)
        speaker = draw_speaker(np.random.default_rng(self.speaker_seed))
        return sing(self.notes, self.words, speaker, self.delivery, hall.num_samples, hall.sample_rate, rng)


def _choir(score: Score, hall: _Hall, rng: np.random.Generator) -> Signal:
    """A choir that holds the chords where there are vocals."""
    held = dataclasses.replace(score, sections=tuple(dataclasses.replace(each, parts=(each.vocals,)) for each in score.sections))
    part = Part(tuple(play_part(held, 0, "strings", rng)), int(rng.choice(_CHOIRS)), reverb=rng.uniform(0.1, 0.6))
    return effects.scaled(hall.play(part), 0.1 * rng.uniform(0.2, 0.8))


def _mastered(stems: dict[str, Signal], sample_rate: int, rng: np.random.Generator) -> dict[str, Signal]:
    """Bring the sum to its loudness with a limiter whose gain all stems share; maybe code each stem."""
    coding = rng.random()
    codec, kilobits = ("mp3" if coding < 0.3 else "aac"), int(rng.choice([96, 128, 192, 256]))
    if coding < 0.5:
        stems = {name: effects.coded(signal, sample_rate, codec, kilobits) for name, signal in stems.items() if signal.any()} | {
            name: signal for name, signal in stems.items() if not signal.any()
        }
    mixture = _sum(stems.values())
    loudness = np.float32(10 ** (rng.uniform(*LOUDNESS_DB) / 20) / max(effects.active_rms(mixture), 1e-9))
    # A stem can be louder than the sum, where others cancel it.
    everything = np.concatenate([mixture, *stems.values()])
    gain = loudness * effects.limiter_gain(loudness * everything, sample_rate, _PEAK, float(rng.uniform(0.03, 0.4)))
    return {name: gain * signal for name, signal in stems.items()}


def _as_musdb18(stems: dict[str, Signal]) -> dict[str, Signal]:
    """Sum all stems but drums, bass and vocals to `other`."""
    other = _sum(signal for name, signal in stems.items() if name not in STEMS)
    return {name: stems.get(name, other) for name in STEMS}


def _sum(signals: Iterable[Signal]) -> Signal:
    return np.asarray(np.sum(np.stack(list(signals)), axis=0), np.float32)
