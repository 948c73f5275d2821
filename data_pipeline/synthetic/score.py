"""Score and players of a synthetic song: melody, drums, bass and the instruments of `other`."""

import dataclasses

import numpy as np

from data_pipeline.synthetic.instruments import DrumKit, FloatArray, Instrument, add_at
from data_pipeline.synthetic.mixing import amplitude, reverberate, rms
from data_pipeline.synthetic.voice import SungNote

MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
PROGRESSIONS = {
    MAJOR: ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 4, 3), (0, 2, 3, 4)),
    MINOR: ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 6), (5, 6, 0, 0), (0, 2, 6, 3)),
}


@dataclasses.dataclass(frozen=True)
class Song:
    """Score of a song: format, tempo, key and chords, which all players share."""

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
        """Number of bars, the last one incomplete."""
        return int(self.num_samples / self.sample_rate / (4 * self.beat_s)) + 1

    def empty_signal(self) -> FloatArray:
        """Silence, float64 (channels, samples)."""
        return np.zeros((2 if self.stereo else 1, self.num_samples))

    def section(self, bar: int) -> int:
        """Section of a bar, 0 or 1, in alternation."""
        return bar // self.bars_per_section % 2

    def degree(self, bar: int) -> int:
        """Scale degree of the root of the chord in a bar."""
        progression = self.progressions[self.section(bar)]
        return progression[bar % len(progression)]

    def pitch(self, degree: int) -> int:
        """MIDI number of a scale degree; degree 0 is the key note, from F2 to E3, about 87 to 165 Hz."""
        octave, step = divmod(degree, len(self.scale))
        return 41 + self.key + 12 * octave + self.scale[step]

    def sample(self, beats: float) -> int:
        """Number of samples in a number of beats."""
        return round(beats * self.beat_s * self.sample_rate)


def melody(song: Song, rng: np.random.Generator) -> list[SungNote]:
    """Draw a melody: phrases of a random walk on the scale, with pauses."""
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
            if rng.random() < 0.4:  # Stop at the root, third or fifth of the chord.
                degree = min(
                    (song.degree(bar) + step for step in range(-14, 22) if step % 7 in (0, 2, 4)), key=lambda d: abs(d - degree)
                )
            notes.append(SungNote(onset, length * (1.0 if rng.random() < 0.8 else 0.85), song.pitch(degree), opens))
            onset, opens = onset + length, False
        onset = end + phrase_s * (1 / activity - 1) * rng.uniform(0.7, 1.3)
    return notes


def drums(song: Song, rng: np.random.Generator) -> FloatArray:
    """Play the drums: float64 (channels, samples) of unit root mean square."""
    kit = DrumKit.draw(song.sample_rate, rng)
    signal = song.empty_signal()
    pans = {"kick": 0.5, "snare": 0.5, "hat": rng.uniform(0.25, 0.75), "tom": rng.uniform(0.2, 0.8)}
    kicks = [np.flatnonzero(rng.random(8) < (0.9, 0.1, 0.2, 0.3, 0.7, 0.3, 0.2, 0.2)) / 2 for _ in range(2)]
    hat_step = float(rng.choice([0.25, 0.5, 0.5, 1.0]))

    def hit(beat: float, sound: FloatArray, pan: float, gain: float) -> None:
        _place(signal, song.sample(beat), sound, pan, gain * amplitude(rng.uniform(-2, 2)))

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
    return signal / max(rms(signal), 1e-9)


def bass(song: Song, rng: np.random.Generator) -> FloatArray:
    """Play the bass: float64 (channels, samples) of unit root mean square."""
    instrument = Instrument(song.sample_rate, rng, sustained=False, decay_s=0.7, extra_tilt=0.5)
    signal = song.empty_signal()
    patterns = [np.flatnonzero(rng.random(8) < (1, 0.2, 0.4, 0.4, 0.8, 0.3, 0.5, 0.4)) for _ in range(2)]
    for bar in range(song.num_bars):
        pattern = patterns[song.section(bar)]
        for eighth, following in zip(pattern, np.append(pattern[1:], 8), strict=True):
            step = song.degree(bar) + (int(rng.choice([0, 4, 7])) if eighth and rng.random() < 0.3 else 0)
            pitch = song.pitch(step) - 24
            pitch += 12 if pitch < 28 else -12 if pitch > 43 else 0
            length = song.sample((following - eighth) / 2)
            _place(signal, song.sample(4 * bar + eighth / 2), instrument.play(pitch, length), 0.5, rng.uniform(0.8, 1.1))
    return signal / max(rms(signal), 1e-9)


def other(song: Song, rng: np.random.Generator) -> FloatArray:
    """Play a pad and two of: plucked chords, an arpeggio, a sustained counter-melody; each of the two may rest in a section.

    Returns float64 (channels, samples).
    """
    signal = song.empty_signal()
    players = [_pad, *rng.permutation(np.array([_comping, _arpeggio, _counter_melody], object))[:2]]
    for player in players:
        layer = np.zeros_like(signal)
        resting = int(rng.integers(2)) if player is not _pad and rng.random() < 0.5 else None
        bars = [bar for bar in range(song.num_bars) if song.section(bar) != resting]
        player(song, bars, layer, rng.uniform(0.1, 0.9), rng)
        signal += layer / max(rms(layer), 1e-9) * amplitude(rng.uniform(-3, 3))
    return reverberate(signal, song.sample_rate, rng.uniform(-26, -18), rng)


def _pad(song: Song, bars: list[int], layer: FloatArray, pan: float, rng: np.random.Generator) -> None:
    instrument = Instrument(song.sample_rate, rng, sustained=True)
    low = int(rng.integers(0, 4))
    for bar in bars:
        for step in (0, 2, 4):
            degree = low + (song.degree(bar) + step - low) % 14
            _place(layer, song.sample(4 * bar), instrument.play(song.pitch(degree), song.sample(4)), pan)


def _comping(song: Song, bars: list[int], layer: FloatArray, pan: float, rng: np.random.Generator) -> None:
    instrument = Instrument(song.sample_rate, rng, sustained=False)
    low = int(rng.integers(2, 8))
    pattern = np.flatnonzero(rng.random(8) < (0.9, 0.4, 0.5, 0.6, 0.6, 0.5, 0.5, 0.6))
    for bar in bars:
        for eighth in pattern:
            for step in (0, 2, 4):
                degree = low + (song.degree(bar) + step - low) % 7
                gain = rng.uniform(0.7, 1.1)
                _place(layer, song.sample(4 * bar + eighth / 2), instrument.play(song.pitch(degree), song.sample(1)), pan, gain)


def _arpeggio(song: Song, bars: list[int], layer: FloatArray, pan: float, rng: np.random.Generator) -> None:
    instrument = Instrument(song.sample_rate, rng, sustained=False, decay_s=0.5)
    low = int(rng.integers(4, 12))
    order = rng.permutation([0, 2, 4, 7, 9, 11])
    length = float(rng.choice([0.25, 0.5, 0.5]))
    for bar in bars:
        for number, beat in enumerate(np.arange(0, 4, length)):
            degree = low + (song.degree(bar) - low) % 7 + int(order[number % len(order)])
            note = instrument.play(song.pitch(degree), song.sample(2 * length))
            _place(layer, song.sample(4 * bar + beat), note, pan, rng.uniform(0.7, 1.1))


def _counter_melody(song: Song, bars: list[int], layer: FloatArray, pan: float, rng: np.random.Generator) -> None:
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
    """Add a sound at sample `start`; in stereo at `pan` between 0 (left) and 1 (right), at constant power."""
    if len(signal) == 1:
        add_at(signal[0], start, sound, gain)
    else:
        add_at(signal[0], start, sound, gain * np.sqrt(2) * np.cos(pan * np.pi / 2))
        add_at(signal[1], start, sound, gain * np.sqrt(2) * np.sin(pan * np.pi / 2))
