"""Players of a rendered song: drums, bass, and instruments that strum, pick, hold, riff or play a tune."""

from collections.abc import Callable

import numpy as np

from data_pipeline.rendered.fluidsynth import Note
from data_pipeline.rendered.score import Score, Section
from data_pipeline.rendered.style import Style

KICK, SNARE, RIM, CLAP, SIDE = 36, 38, 37, 39, 40
CLOSED_HAT, OPEN_HAT, RIDE, CRASH = 42, 46, 51, 49
TOMS = (41, 43, 45, 47, 48, 50)
PERCUSSION = (54, 56, 62, 63, 69, 70, 75, 82)

Notes = list[Note]


def _velocity(rng: np.random.Generator, low: float, high: float, energy: float) -> int:
    return int(np.clip(rng.uniform(low, high) * (0.65 + 0.35 * energy), 1, 127))


def play_drums(score: Score, style: Style, rng: np.random.Generator) -> Notes:
    """Kick, snare and cymbals, with fills at the ends of sections, maybe with more percussion."""
    notes: Notes = []
    beats = score.beats_per_bar
    kicks = [np.flatnonzero(rng.random(8) < style.kick) / 2 for _ in range(2)]
    snare, cymbals = int(rng.choice([SNARE, SNARE, SIDE, RIM, CLAP])), rng.choice([CLOSED_HAT, CLOSED_HAT, RIDE], 2)
    steps = rng.choice(style.grid, 2)
    shaken = int(rng.choice(PERCUSSION)) if rng.random() < 0.3 else None
    ghosts, opened = rng.uniform(0, 0.15), rng.uniform(0, 0.12)
    last_bar = {section.first_bar + section.num_bars - 1 for section in score.sections}
    for section, bar in score.bars("drums"):
        start, kind, energy = bar * beats, section.kind, section.energy

        def hit(beat: float, pitch: int, low: float, high: float, start: int = start, energy: float = energy) -> None:
            notes.append(Note(score.played_s(start + beat, rng), 0.15, pitch, _velocity(rng, low, high, energy)))

        fill = bar in last_bar and rng.random() < 0.6
        until = beats - 1 if fill else beats
        for beat in kicks[kind][kicks[kind] < until]:
            hit(float(beat), KICK, 88, 125)
        for beat in range(1, until, 2):
            hit(beat, snare, 85, 125)
        for beat in np.arange(0, until, float(steps[kind])):
            open_now = cymbals[kind] == CLOSED_HAT and rng.random() < opened
            hit(float(beat), OPEN_HAT if open_now else int(cymbals[kind]), 50 if beat % 1 else 75, 100)
            if rng.random() < ghosts:
                hit(float(beat) + 0.25, snare, 25, 50)
        if shaken is not None:
            for beat in np.arange(0, beats, 0.5):
                hit(float(beat), shaken, 35, 85)
        if fill:
            for beat in np.arange(until, beats, 0.25):
                if rng.random() < 0.8:
                    hit(float(beat), int(rng.choice((SNARE, *TOMS))), 70, 120)
        if bar == section.first_bar and rng.random() < 0.7:
            hit(0, CRASH, 80, 118)
    return notes


def play_bass(score: Score, name: str, rng: np.random.Generator) -> Notes:
    """A bass that repeats a rhythm on the chord's notes; in jazz it walks."""
    notes: Notes = []
    beats = score.beats_per_bar
    rhythms = [np.flatnonzero(rng.random(2 * beats) < ((0.95, 0.35, 0.45, 0.45) * beats)[: 2 * beats]) / 2 for _ in range(2)]
    if name in ("metal", "rock") and rng.random() < 0.6:
        rhythms = [np.arange(0, beats, 0.5)] * 2
    if name == "jazz":
        rhythms = [np.arange(0, beats, 1.0)] * 2
    legato = rng.uniform(0.5, 1.0)
    for section, bar in score.bars("bass"):
        root = score.chord(section, bar)
        rhythm = rhythms[section.kind]
        for number, (beat, following) in enumerate(zip(rhythm, np.append(rhythm[1:], beats), strict=True)):
            walks = name == "jazz" and number > 0
            step = int(rng.choice([1, 2, 4, 6])) if walks else int(rng.choice([0, 0, 0, 0, 2, 4, 7]))
            pitch = score.pitch(root + step, -1)
            while pitch > 47:
                pitch -= 12
            length_s = (following - beat) * score.beat_s * legato
            onset_s = score.played_s(bar * beats + float(beat), rng)
            notes.append(Note(onset_s, length_s, pitch, _velocity(rng, 80, 118, section.energy)))
    return notes


def _voicing(score: Score, section: Section, bar: int, low: int) -> list[int]:
    """Pitches of a chord of three notes, from the lowest that is at least `low`."""
    root = score.chord(section, bar)
    pitches = sorted(score.pitch(root + step) for step in (0, 2, 4))
    return sorted(pitch + 12 * -((pitch - low) // 12) for pitch in pitches)


def _hold(score: Score, bars: list[tuple[Section, int]], low: int, rng: np.random.Generator) -> Notes:
    notes: Notes = []
    for section, bar in bars:
        onset_s, length_s = score.played_s(bar * score.beats_per_bar, rng), 0.98 * score.beats_per_bar * score.beat_s
        velocity = _velocity(rng, 60, 95, section.energy)
        notes += [Note(onset_s, length_s, pitch, velocity) for pitch in _voicing(score, section, bar, low)]
    return notes


def _strum(score: Score, bars: list[tuple[Section, int]], low: int, rng: np.random.Generator) -> Notes:
    notes: Notes = []
    beats = score.beats_per_bar
    rhythms = [np.flatnonzero(rng.random(2 * beats) < ((0.95, 0.45, 0.6, 0.6) * beats)[: 2 * beats]) / 2 for _ in range(2)]
    spread_s, legato = rng.uniform(0.0, 0.03), rng.uniform(0.3, 1.0)
    for section, bar in bars:
        pitches = _voicing(score, section, bar, low)
        pitches = [*pitches, pitches[0] + 12]
        rhythm = rhythms[section.kind]
        for beat, following in zip(rhythm, np.append(rhythm[1:], beats), strict=True):
            onset_s, length_s = score.played_s(bar * beats + float(beat), rng), (following - beat) * score.beat_s * legato
            velocity = _velocity(rng, 60, 112, section.energy)
            order = pitches if beat % 1 == 0 else pitches[::-1]
            notes += [Note(onset_s + spread_s * number, length_s, pitch, velocity) for number, pitch in enumerate(order)]
    return notes


def _pick(score: Score, bars: list[tuple[Section, int]], low: int, rng: np.random.Generator) -> Notes:
    notes: Notes = []
    beats, step = score.beats_per_bar, float(rng.choice([0.25, 0.5, 0.5]))
    order = rng.integers(0, 5, round(beats / step))
    sustain = rng.uniform(1, 4)
    for section, bar in bars:
        pitches = _voicing(score, section, bar, low)
        pitches = [*pitches, pitches[0] + 12, pitches[1] + 12]
        for number, beat in enumerate(np.arange(0, beats, step)):
            onset_s = score.played_s(bar * beats + float(beat), rng)
            pitch = pitches[order[number % len(order)]]
            notes.append(Note(onset_s, sustain * step * score.beat_s, pitch, _velocity(rng, 60, 105, section.energy)))
    return notes


def _riff(score: Score, bars: list[tuple[Section, int]], low: int, rng: np.random.Generator) -> Notes:
    notes: Notes = []
    beats = score.beats_per_bar
    rhythms = [np.flatnonzero(rng.random(4 * beats) < ((0.9, 0.25, 0.6, 0.3) * beats)[: 4 * beats]) / 4 for _ in range(2)]
    steps = rng.choice([0, 0, 0, 0, 1, 2, 4, 6], 4 * beats)
    fifths, muted = rng.random() < 0.7, rng.uniform(0.3, 1.0)
    for section, bar in bars:
        rhythm = rhythms[section.kind]
        for number, (beat, following) in enumerate(zip(rhythm, np.append(rhythm[1:], beats), strict=True)):
            pitch = score.pitch(score.chord(section, bar) + (int(steps[number]) if not fifths else 0), -1)
            while pitch < low - 14:
                pitch += 12
            onset_s, length_s = score.played_s(bar * beats + float(beat), rng), (following - beat) * score.beat_s * muted
            velocity = _velocity(rng, 80, 120, section.energy)
            notes += [
                Note(onset_s, length_s, each, velocity) for each in ((pitch, pitch + 7, pitch + 12) if fifths else (pitch,))
            ]
    return notes


def _tune(score: Score, bars: list[tuple[Section, int]], low: int, rng: np.random.Generator) -> Notes:
    notes: Notes = []
    beats = score.beats_per_bar
    base = next(degree for degree in range(-14, 36) if score.pitch(degree) >= low + 7)
    degree, legato = base + int(rng.integers(0, 7)), rng.uniform(0.7, 1.02)
    rhythm = (0.25, 0.5, 0.5) if rng.random() < 0.3 else (0.5, 0.5, 1.0, 1.0, 1.5, 2.0)
    bends = rng.uniform(0.1, 0.4) if rng.random() < 0.5 else 0.0
    for section, bar in bars:
        if rng.random() < 0.2:
            continue
        beat = 0.0
        while beat < beats - 0.1:
            length = min(float(rng.choice(rhythm)), beats - beat)
            if rng.random() < 0.85:
                degree = int(np.clip(degree + rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3]), base - 3, base + 11))
                onset_s = score.played_s(bar * beats + beat, rng)
                velocity = _velocity(rng, 75, 115, section.energy)
                scoop = float(rng.uniform(0.3, 2.0)) if rng.random() < bends else 0.0
                notes.append(Note(onset_s, length * score.beat_s * legato, score.pitch(degree), velocity, scoop))
            beat += length
    return notes


_Player = Callable[[Score, list[tuple[Section, int]], int, np.random.Generator], Notes]
_PLAYERS: dict[str, tuple[tuple[_Player, float], ...]] = {
    "piano": ((_hold, 1), (_strum, 3), (_pick, 2), (_tune, 1)),
    "mallets": ((_pick, 2), (_tune, 2)),
    "organ": ((_hold, 3), (_strum, 2), (_tune, 1)),
    "acoustic guitar": ((_strum, 4), (_pick, 3), (_tune, 0.5)),
    "electric guitar": ((_strum, 2), (_pick, 1), (_riff, 3), (_tune, 2)),
    "strings": ((_hold, 3), (_tune, 2)),
    "brass": ((_hold, 1), (_strum, 2), (_tune, 3)),
    "winds": ((_hold, 0.5), (_tune, 4)),
    "synthesizer": ((_hold, 2), (_pick, 2), (_strum, 1), (_tune, 2), (_riff, 1)),
    "plucked": ((_strum, 1), (_pick, 3), (_tune, 1)),
}


def play_part(score: Score, number: int, family: str, rng: np.random.Generator) -> Notes:
    """Notes of the instrument with a number, of a family of `style.FAMILIES`."""
    players = _PLAYERS[family]
    weights = np.array([weight for _, weight in players])
    player = players[int(rng.choice(len(players), p=weights / weights.sum()))][0]
    low = int(rng.integers(47, 66))
    return player(score, score.bars(number), low, rng)
