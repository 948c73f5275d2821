"""Styles of music: tempi, instruments, rhythms and density."""

import dataclasses

import numpy as np

FAMILIES = {
    "piano": (0, 1, 2, 3, 4, 5, 6, 7),
    "mallets": (8, 9, 10, 11, 12, 13, 14, 15),
    "organ": (16, 17, 18, 19, 20, 21, 22),
    "acoustic guitar": (24, 25),
    "electric guitar": (26, 27, 28),
    "strings": (40, 41, 42, 44, 45, 48, 49, 50, 51),
    "brass": (56, 57, 58, 59, 60, 61, 62, 63),
    "winds": (64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 75, 79),
    "synthesizer": (80, 81, 82, 83, 84, 87, 88, 89, 90, 92, 93, 94, 95),
    "plucked": (46, 104, 105, 106, 107, 108),
}
"""Programs of General MIDI by family.  Choirs are left out: they are voices."""

STEM_OF_FAMILY = {
    "acoustic guitar": "guitar",
    "electric guitar": "guitar",
    "mallets": "percussion",
    "plucked": "strings",
}
"""Names of stems that differ from the family's."""

WITH_VIBRATO = ("electric guitar", "strings", "brass", "winds", "synthesizer")
"""Families of which some players play with vibrato."""

FINGERED, PICKED, FRETLESS, SLAPPED, SYNTHESIZED, UPRIGHT = 33, 34, 35, 36, 38, 32


@dataclasses.dataclass(frozen=True)
class Style:
    """A style of music.

    Attributes:
        bpm: lowest and highest tempo.
        swing: largest delay of every second eighth, as a share of a beat.
        drum_kits: programs of the drum channel; empty without drums.
        drums: probability that a song has drums.
        grid: steps of hi-hats in beats, of which a song chooses.
        kick: probability of a kick on each of eight eighths of a bar.
        basses: programs of the bass.
        families: instrument families and their weights; a song draws some without replacement.
        parts: fewest and most of these instruments.
        distortion: probability that an electric guitar is played through a driven amplifier.
        voice: probability that a section has vocals.
        timed_by_machine: notes fall exactly on the grid.
    """

    bpm: tuple[float, float]
    swing: float
    drum_kits: tuple[int, ...]
    drums: float
    grid: tuple[float, ...]
    kick: tuple[float, ...]
    basses: tuple[int, ...]
    families: dict[str, float]
    parts: tuple[int, int]
    distortion: float
    voice: float = 0.75
    timed_by_machine: bool = False


_ROCK_KICK = (0.95, 0.1, 0.25, 0.35, 0.8, 0.35, 0.25, 0.2)
_FOUR_KICK = (1.0, 0.05, 1.0, 0.05, 1.0, 0.05, 1.0, 0.1)

STYLES = {
    "pop": Style(
        (84, 128), 0.05, (0, 8, 16, 25), 0.95, (0.5, 0.25), _ROCK_KICK, (FINGERED, PICKED, SYNTHESIZED),
        {"piano": 3, "synthesizer": 3, "electric guitar": 3, "acoustic guitar": 2, "strings": 2, "organ": 1, "mallets": 1},
        (2, 5), 0.2,
    ),
    "rock": Style(
        (96, 172), 0.0, (0, 16), 1.0, (0.5, 1.0, 0.25), _ROCK_KICK, (FINGERED, PICKED),
        {"electric guitar": 8, "organ": 1, "piano": 1, "acoustic guitar": 1}, (1, 3), 0.75,
    ),
    "metal": Style(
        (110, 190), 0.0, (16,), 1.0, (0.5, 0.25), (0.95, 0.6, 0.6, 0.6, 0.8, 0.6, 0.6, 0.6), (PICKED,),
        {"electric guitar": 10, "synthesizer": 0.5}, (1, 2), 1.0, 0.65,
    ),
    "ballad": Style(
        (58, 84), 0.05, (0, 40), 0.6, (0.5, 1.0), (0.9, 0.05, 0.1, 0.2, 0.7, 0.2, 0.1, 0.1), (FINGERED, FRETLESS),
        {"piano": 5, "acoustic guitar": 3, "strings": 3, "organ": 1, "winds": 1}, (1, 4), 0.1,
    ),
    "folk": Style(
        (76, 140), 0.1, (40, 0), 0.3, (1.0, 0.5), (0.9, 0.05, 0.2, 0.1, 0.7, 0.1, 0.3, 0.1), (UPRIGHT, FINGERED),
        {"acoustic guitar": 8, "plucked": 3, "strings": 2, "winds": 2, "piano": 1}, (1, 3), 0.0,
    ),
    "soul": Style(
        (70, 118), 0.16, (0, 8), 1.0, (0.5, 0.25), (0.95, 0.2, 0.2, 0.5, 0.5, 0.4, 0.3, 0.4), (FINGERED, SLAPPED),
        {"piano": 3, "organ": 3, "electric guitar": 3, "brass": 3, "winds": 1, "strings": 1}, (2, 5), 0.1,
    ),
    "jazz": Style(
        (96, 190), 0.17, (32, 40), 0.9, (1.0, 0.5), (0.5, 0.1, 0.3, 0.1, 0.4, 0.1, 0.3, 0.2), (UPRIGHT,),
        {"piano": 5, "winds": 3, "brass": 3, "electric guitar": 2, "mallets": 1}, (1, 3), 0.0, 0.6,
    ),
    "electronic": Style(
        (100, 140), 0.0, (24, 25), 1.0, (0.5, 0.25), _FOUR_KICK, (SYNTHESIZED, 39),
        {"synthesizer": 8, "piano": 1, "mallets": 1, "strings": 1}, (2, 4), 0.3, 0.6, True,
    ),
    "hip hop": Style(
        (70, 104), 0.12, (25, 8), 1.0, (0.25, 0.5), (0.95, 0.2, 0.1, 0.4, 0.3, 0.5, 0.2, 0.3), (SYNTHESIZED, FINGERED, 39),
        {"piano": 3, "synthesizer": 3, "strings": 2, "mallets": 1, "brass": 1}, (1, 3), 0.1, 0.8,
    ),
    "reggae": Style(
        (66, 92), 0.12, (0,), 1.0, (0.5,), (0.1, 0.05, 0.1, 0.05, 0.95, 0.1, 0.1, 0.1), (FINGERED,),
        {"electric guitar": 4, "organ": 4, "brass": 2, "piano": 1}, (2, 4), 0.05,
    ),
}  # fmt: skip


def draw_style(rng: np.random.Generator) -> tuple[str, Style]:
    """Draw a style; pop and rock, of which there is most, twice as often as others."""
    names = list(STYLES)
    weights = np.array([2.0 if name in ("pop", "rock") else 1.0 for name in names])
    name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    return name, STYLES[name]
