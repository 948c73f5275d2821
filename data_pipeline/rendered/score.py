"""Score of a rendered song: tempo, key, chords, sections and who plays in them, and the melody of the singer."""

import dataclasses

import numpy as np

from data_pipeline.rendered.style import Style
from data_pipeline.synthetic.score import PROGRESSIONS

DORIAN, MIXOLYDIAN = (0, 2, 3, 5, 7, 9, 10), (0, 2, 4, 5, 7, 9, 10)
_PROGRESSIONS = {
    **PROGRESSIONS,
    DORIAN: ((0, 3, 0, 3), (0, 6, 3, 0), (0, 0, 3, 3)),
    MIXOLYDIAN: ((0, 6, 3, 0), (0, 0, 6, 3), (0, 3, 6, 3)),
}


@dataclasses.dataclass(frozen=True)
class Section:
    """Some bars with the same players.

    Attributes:
        first_bar: its first bar.
        num_bars: number of bars.
        kind: 0 or 1, such as verse and refrain: sections of a kind have the same chords and rhythms.
        energy: loudness of the players, 0 to 1.
        drums: whether drums play; likewise `bass` and `vocals`.
        parts: whether each of the other instruments plays.
    """

    first_bar: int
    num_bars: int
    kind: int
    energy: float
    drums: bool
    bass: bool
    vocals: bool
    parts: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class Score:
    """Tempo, key, chords and sections of a song, for all players.  Times are in beats unless stated otherwise."""

    beat_s: float
    beats_per_bar: int
    swing: float
    timing_s: float
    key: int
    scale: tuple[int, ...]
    progressions: tuple[tuple[int, ...], tuple[int, ...]]
    sections: tuple[Section, ...]

    def seconds(self, beat: float) -> float:
        """Time of a beat in seconds; every second eighth is late by the swing."""
        late = self.swing if abs(beat % 1 - 0.5) < 0.01 else 0.0
        return (beat + late) * self.beat_s

    def played_s(self, beat: float, rng: np.random.Generator) -> float:
        """Time in seconds at which a living player plays what is written at a beat."""
        return max(self.seconds(beat) + rng.normal(0, self.timing_s), 0.0)

    def chord(self, section: Section, bar: int) -> int:
        """Degree of the scale on which the chord of a bar is built."""
        progression = self.progressions[section.kind]
        return progression[(bar - section.first_bar) % len(progression)]

    def pitch(self, degree: int, octave: int = 0) -> int:
        """MIDI number of a degree of the scale; degree 0 of octave 0 is the key note from C3 to B3."""
        step = len(self.scale)
        return 48 + self.key + self.scale[degree % step] + 12 * (degree // step + octave)

    def bars(self, playing: str | int) -> list[tuple[Section, int]]:
        """Sections and bars in which "drums", "bass", "vocals" or a numbered part plays."""
        return [
            (section, bar)
            for section in self.sections
            if (section.parts[playing] if isinstance(playing, int) else getattr(section, playing))
            for bar in range(section.first_bar, section.first_bar + section.num_bars)
        ]


def draw_score(style: Style, num_parts: int, seconds: float, rng: np.random.Generator) -> Score:
    """Draw a score in a style, for a number of instruments beside drums and bass."""
    beat_s = 60 / rng.uniform(*style.bpm)
    beats_per_bar = 3 if rng.random() < 0.08 else 4
    scales = list(_PROGRESSIONS)
    scale = scales[int(rng.choice(len(scales), p=(0.42, 0.38, 0.1, 0.1)))]
    first, second = (_PROGRESSIONS[scale][number] for number in rng.permutation(len(_PROGRESSIONS[scale]))[:2])
    return Score(
        beat_s=beat_s,
        beats_per_bar=beats_per_bar,
        swing=style.swing * float(rng.uniform(0, 1)),
        timing_s=0.0 if style.timed_by_machine else float(rng.uniform(0.003, 0.015)),
        key=int(rng.integers(12)),
        scale=scale,
        progressions=(first, second),
        sections=_sections(style, num_parts, int(seconds / (beat_s * beats_per_bar)) + 1, rng),
    )


def _sections(style: Style, num_parts: int, num_bars: int, rng: np.random.Generator) -> tuple[Section, ...]:
    has_drums, has_bass = rng.random() < style.drums, rng.random() < 0.92
    length = int(rng.choice([2, 4, 4, 8]))
    sections: list[Section] = []
    first = 0
    while first < num_bars:
        sparse = rng.random() < 0.2
        plays = rng.random(num_parts) < (0.5 if sparse else 0.85)
        plays[int(rng.integers(num_parts))] = True
        sections.append(
            Section(
                first_bar=first,
                num_bars=min(length, num_bars - first),
                kind=len(sections) % 2,
                energy=float(rng.uniform(0.2, 0.6) if sparse else rng.uniform(0.5, 1.0)),
                drums=bool(has_drums and rng.random() < (0.4 if sparse else 0.95)),
                bass=bool(has_bass and rng.random() < (0.5 if sparse else 0.95)),
                vocals=bool(rng.random() < style.voice),
                parts=tuple(bool(each) for each in plays),
            )
        )
        first += length
    return tuple(sections)


@dataclasses.dataclass(frozen=True)
class MelodyNote:
    """Note of a melody: onset and length in seconds, pitch (MIDI number), whether a phrase ends with it, degree of the scale."""

    onset_s: float
    length_s: float
    pitch: int
    ends_phrase: bool
    degree: int


def melody(score: Score, lowest: int, highest: int, density: float, rng: np.random.Generator) -> list[MelodyNote]:
    """Draw the singer's melody: phrases of one to two bars that walk along the scale, with pauses between them.

    Args:
        score: the song.
        lowest: lowest pitch of the singer, a MIDI number.
        highest: highest pitch.
        density: fraction of the time with notes, and the higher, the shorter are they.
        rng: random generator.
    """
    degrees = [degree for degree in range(-21, 36) if lowest <= score.pitch(degree) <= highest]
    place = int(rng.integers(len(degrees) // 4, max(3 * len(degrees) // 4, len(degrees) // 4 + 1)))
    rhythm = (0.25, 0.25, 0.5, 0.5, 0.5, 1.0) if density > 0.8 else (0.5, 0.5, 0.5, 1.0, 1.0, 1.5, 2.0)
    notes: list[MelodyNote] = []
    for section, bar in score.bars("vocals"):
        if rng.random() > density + 0.15:
            continue
        beat = bar * score.beats_per_bar + float(rng.choice([0, 0, 0.5, 1]))
        end = (bar + 1) * score.beats_per_bar - float(rng.choice([0, 0, 0.5, 1]))
        chord = {(score.chord(section, bar) + step) % 7 for step in (0, 2, 4)}
        while beat < end - 0.2:
            length = min(float(rng.choice(rhythm)), end - beat)
            place = int(np.clip(place + rng.choice([-3, -2, -1, -1, 0, 0, 1, 1, 2, 3]), 0, len(degrees) - 1))
            near = [each for each in range(max(place - 1, 0), min(place + 2, len(degrees))) if degrees[each] % 7 in chord]
            if near and rng.random() < 0.5:
                place = int(rng.choice(near))
            onset_s = score.seconds(beat)
            length_s = score.seconds(beat + length) - onset_s
            degree = degrees[place]
            notes.append(MelodyNote(onset_s, length_s * float(rng.uniform(0.85, 1.0)), score.pitch(degree), False, degree))
            beat += length
        if notes:
            notes[-1] = dataclasses.replace(notes[-1], ends_phrase=True)
    return notes


def transposed(score: Score, notes: list[MelodyNote], degrees: int) -> list[MelodyNote]:
    """Move a melody by degrees of the scale, for a second voice."""
    return [dataclasses.replace(note, pitch=score.pitch(note.degree + degrees), degree=note.degree + degrees) for note in notes]
