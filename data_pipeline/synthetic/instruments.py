"""Instruments of the synthetic corpus: pads, plucked and sustained instruments, bass and drums, all at a steady pitch.

Waveforms are float64 (samples,) unless stated otherwise; times are in samples, pitches are MIDI numbers.
"""

import dataclasses

import numpy as np
import numpy.typing as npt
import scipy.signal

FloatArray = npt.NDArray[np.float64]

TABLE_SIZE = 8192


def midi_to_hz(pitch: float) -> float:
    """Frequency in Hz of a MIDI number, in equal temperament with A4 = 440 Hz."""
    return float(440 * 2 ** ((pitch - 69) / 12))


class Instrument:
    """Wavetable instrument: one period of a tone with random static resonances, in a bright and a dark version.

    Args:
        sample_rate: in Hz.
        rng: random generator of the timbre.
        sustained: hold the tone until the note ends, with a slow attack; otherwise the tone is plucked and decays.
        decay_s: approximate decay time of a plucked tone.
        extra_tilt: added to the exponent of the decay of the harmonics; larger is duller.
    """

    def __init__(
        self, sample_rate: int, rng: np.random.Generator, *, sustained: bool, decay_s: float = 0.8, extra_tilt: float = 0.0
    ):
        self.sample_rate = sample_rate
        self.sustained = sustained
        self.decay_s = decay_s * rng.uniform(0.6, 1.6)
        self.attack_s = rng.uniform(0.03, 0.2) if sustained else rng.uniform(0.002, 0.01)
        self.detune = rng.uniform(0, 0.06) if sustained and rng.random() < 0.5 else 0.0
        self._tilt = rng.uniform(0.6, 1.3) + extra_tilt
        self._even = rng.uniform(0.1, 1.0)  # Clarinets and square waves have few even harmonics.
        self._centres = 2 ** rng.uniform(np.log2(300), np.log2(7000), 5)
        self._gains = rng.uniform(0.5, 4.0, 5)
        self._widths = rng.uniform(0.1, 0.4, 5)
        self._phases = rng.uniform(0, 2 * np.pi, TABLE_SIZE // 4)
        self._tables: dict[float, tuple[FloatArray, FloatArray]] = {}

    def play(self, pitch: float, num_samples: int) -> FloatArray:
        """Play one note, of unit root mean square at its onset."""
        seconds = np.arange(num_samples) / self.sample_rate
        bright, dark = self._lookup(pitch, num_samples)
        if self.detune:
            other = self._lookup(pitch + self.detune, num_samples)
            bright, dark = 0.7 * (bright + other[0]), 0.7 * (dark + other[1])
        release = np.clip((num_samples - np.arange(num_samples)) / (0.03 * self.sample_rate), 0, 1)
        envelope = np.clip(seconds / self.attack_s, 0, 1) * release
        if self.sustained:
            return envelope * (0.6 * bright + 0.4 * dark)
        decay = np.exp(-seconds / (self.decay_s * min(2.0, (60 / pitch) ** 2)))
        return envelope * decay * (decay**2 * bright + 0.5 * dark)

    def _lookup(self, pitch: float, num_samples: int) -> tuple[FloatArray, FloatArray]:
        frequency = midi_to_hz(pitch)
        if pitch not in self._tables:
            self._tables[pitch] = self._table(frequency)
        phase = (np.arange(num_samples) * (frequency / self.sample_rate)) % 1.0 * TABLE_SIZE
        index = phase.astype(np.int64)
        fraction = phase - index
        bright, dark = ((table[index] + fraction * (table[index + 1] - table[index])) for table in self._tables[pitch])
        return bright, dark

    def _table(self, frequency: float) -> tuple[FloatArray, FloatArray]:
        numbers = np.arange(1, min(int(0.48 * self.sample_rate / frequency), len(self._phases)) + 1)
        harmonics = numbers * frequency
        distance = np.log2(harmonics[:, None] / self._centres) / self._widths
        amplitudes = numbers**-self._tilt * (1 + np.sum(self._gains * np.exp(-0.5 * distance**2), axis=1))
        amplitudes[1::2] *= self._even
        dark = amplitudes / (1 + (harmonics / (3 * frequency + 500)) ** 2)
        tables = []
        for values in (amplitudes, dark):
            spectrum = np.zeros(TABLE_SIZE // 2 + 1, np.complex128)
            spectrum[1 : len(values) + 1] = values * np.exp(1j * self._phases[: len(values)])
            table = np.fft.irfft(spectrum)
            table /= np.sqrt(np.mean(table**2))
            tables.append(np.append(table, table[0]))
        return tables[0], tables[1]


@dataclasses.dataclass(frozen=True)
class DrumKit:
    """One-shot drum sounds."""

    kick: FloatArray
    snare: FloatArray
    closed_hat: FloatArray
    open_hat: FloatArray
    tom: FloatArray

    @classmethod
    def draw(cls, sample_rate: int, rng: np.random.Generator) -> "DrumKit":
        """Draw a kit from `rng`."""

        def clock(seconds: float) -> FloatArray:
            return np.arange(round(seconds * sample_rate)) / sample_rate

        def drum(low: float, high: float, sweep_s: float, decay_s: float) -> FloatArray:
            time = clock(0.5)
            phase = low * time + (high - low) * sweep_s * (1 - np.exp(-time / sweep_s))
            return np.sin(2 * np.pi * phase) * np.exp(-time / decay_s)

        def noise(low: float, high: float, decay_s: float, length_s: float) -> FloatArray:
            time = clock(length_s)
            high = min(high, 0.45 * sample_rate)
            band = scipy.signal.butter(2, (min(low, 0.6 * high), high), "bandpass", fs=sample_rate, output="sos")
            hiss = scipy.signal.sosfilt(band, rng.standard_normal(len(time)))
            return hiss / np.sqrt(np.mean(hiss**2)) * np.exp(-time / decay_s)

        def fade(sound: FloatArray) -> FloatArray:
            length = min(len(sound), round(0.02 * sample_rate))
            sound[-length:] *= np.linspace(1, 0, length)
            return sound

        body = rng.uniform(170, 240)
        kick = drum(rng.uniform(48, 65), rng.uniform(180, 320), 0.03, rng.uniform(0.08, 0.16))
        kick[: len(clock(0.02))] += rng.uniform(0.1, 0.4) * noise(1000, 6000, 0.004, 0.02)
        snare = 0.5 * drum(body, 1.4 * body, 0.02, rng.uniform(0.05, 0.1))
        snare += rng.uniform(0.3, 0.6) * noise(rng.uniform(400, 900), 7500, rng.uniform(0.06, 0.14), 0.5)
        hat_low = rng.uniform(2500, 5000)
        return cls(
            kick=fade(kick),
            snare=fade(snare),
            closed_hat=fade(0.35 * noise(hat_low, 12_000, rng.uniform(0.02, 0.05), 0.2)),
            open_hat=fade(0.3 * noise(hat_low, 12_000, rng.uniform(0.12, 0.25), 0.6)),
            tom=fade(drum(rng.uniform(90, 140), rng.uniform(180, 260), 0.05, rng.uniform(0.12, 0.22))),
        )


def add_at(buffer: FloatArray, start: int, sound: FloatArray, gain: float = 1.0) -> None:
    """Add `gain * sound` to `buffer` (..., samples) from sample `start` on, cut off at the end of the buffer."""
    stop = min(start + len(sound), buffer.shape[-1])
    if stop > start:
        buffer[..., start:stop] += gain * sound[: stop - start]
