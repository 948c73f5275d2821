"""Singing voice of the synthetic corpus: a glottal pulse, moving formants, breath and consonants.

As in a real voice, the differences from the instruments are local in time and frequency: glides, vibrato, moving formants, and
the change between vowels and consonants.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]

# The first three formants of some vowels in Hz (after Peterson and Barney, 1952), for an average adult.
VOWELS = np.array(
    [
        (300.0, 2290.0, 3010.0),
        (440.0, 1950.0, 2550.0),
        (660.0, 1720.0, 2410.0),
        (750.0, 1150.0, 2500.0),
        (570.0, 850.0, 2410.0),
        (440.0, 1020.0, 2240.0),
        (320.0, 870.0, 2240.0),
        (490.0, 1350.0, 1690.0),
    ]
)
NASAL = np.array((270.0, 1050.0, 2200.0))
CONTROL_RATE = 250  # Control frames per second.
HIGHEST_HARMONIC_HZ = 12_000.0


@dataclasses.dataclass(frozen=True)
class SungNote:
    """Note of a melody: onset and length in seconds, pitch as a MIDI number, and whether it opens a phrase."""

    onset_s: float
    length_s: float
    pitch: float
    opens_phrase: bool


def smooth(values: FloatArray, length: int) -> FloatArray:
    """Smooth `values` (frames,) or (frames, n) over the frames with a Hann window of `length` frames; edges are extended."""
    window = np.hanning(max(length, 1) + 2)[1:-1]
    window /= window.sum()
    columns = values[:, None] if values.ndim == 1 else values
    before, after = (len(window) - 1) // 2, len(window) // 2
    padded = np.pad(columns, ((before, after), (0, 0)), mode="edge")
    smoothed = np.stack([np.convolve(column, window, mode="valid") for column in padded.T], axis=1)
    return smoothed[:, 0] if values.ndim == 1 else smoothed


def to_samples(control: FloatArray, hop: int) -> FloatArray:
    """Interpolate `control` (frames + 1,), one value every `hop` samples, linearly to (frames * hop,) samples."""
    ramp = np.arange(hop) / hop
    return (control[:-1, None] + (control[1:] - control[:-1])[:, None] * ramp).ravel()


def sing(notes: list[SungNote], num_samples: int, sample_rate: int, rng: np.random.Generator) -> FloatArray:
    """Sing `notes` with a voice drawn from `rng`: float64 (num_samples,), at no particular level."""
    hop = max(round(sample_rate / CONTROL_RATE), 1)
    num_frames = -(-num_samples // hop) + 1
    track = _articulate(notes, num_frames, sample_rate / hop, rng)
    voice = _voiced(track, hop, sample_rate, rng) + _noise(track, hop, sample_rate, rng)
    return voice[:num_samples]


@dataclasses.dataclass
class _Articulation:
    """Control signals of a voice, one row per control frame."""

    pitch: FloatArray  # MIDI numbers
    formants: FloatArray  # (frames, 8) in Hz
    voiced: FloatArray  # amplitude of the glottal source
    aspiration: FloatArray  # amplitude of noise shaped by the formants
    frication: FloatArray  # amplitude of the noise of fricatives and plosives
    frication_hz: FloatArray  # where that noise is strongest


@dataclasses.dataclass
class _Outline:
    """Control signals before they are smoothed: steps from note to note.  See `_Articulation`."""

    pitch: FloatArray
    scoop: FloatArray  # semitones, the glide up to the first pitch
    vibrato: FloatArray  # semitones
    formants: FloatArray  # (frames, 3) in Hz, of an average adult
    voiced: FloatArray
    aspiration: FloatArray
    frication: FloatArray
    frication_hz: FloatArray


def _articulate(notes: list[SungNote], num_frames: int, rate: float, rng: np.random.Generator) -> _Articulation:
    # High voices have short vocal tracts: their formants lie higher.
    formant_scale = 2.0 ** ((np.median([note.pitch for note in notes]) - 57) / 60) * rng.uniform(0.93, 1.07)
    vibrato_hz = rng.uniform(5.0, 6.2)
    outline = _outline(notes, num_frames, rate, rng)
    glide = smooth(outline.pitch, round(rng.uniform(0.07, 0.14) * rate))
    wobble = smooth(rng.standard_normal(num_frames), round(0.25 * rate)) * 0.8  # About 15 cents of slow drift.
    vibrato_rate = vibrato_hz * (1 + 0.06 * smooth(rng.standard_normal(num_frames), round(0.3 * rate)))
    vibrato_phase = 2 * np.pi * np.cumsum(vibrato_rate) / rate
    jitter = 0.02 * rng.standard_normal(num_frames)
    moving = smooth(outline.formants, round(0.08 * rate)) * formant_scale
    upper = formant_scale * np.array((3500.0, 4500.0, 5500.0, 6600.0, 7700.0)) * rng.uniform(0.95, 1.05, 5)
    return _Articulation(
        pitch=glide + outline.scoop + outline.vibrato * np.sin(vibrato_phase) + wobble + jitter,
        formants=np.concatenate([moving, np.broadcast_to(upper, (num_frames, 5))], axis=1),
        voiced=smooth(outline.voiced, round(0.05 * rate)),
        aspiration=smooth(outline.aspiration, round(0.06 * rate)),
        frication=smooth(outline.frication, round(0.016 * rate)),
        frication_hz=outline.frication_hz,
    )


def _outline(notes: list[SungNote], num_frames: int, rate: float, rng: np.random.Generator) -> _Outline:
    depth = rng.uniform(0.3, 0.6)
    breathiness = 10 ** (rng.uniform(-34, -24) / 20)
    consonant_level = 10 ** (rng.uniform(-14, -8) / 20)
    out = _Outline(
        pitch=np.full(num_frames, notes[0].pitch, np.float64),
        scoop=np.zeros(num_frames),
        vibrato=np.zeros(num_frames),
        formants=np.tile(VOWELS[0], (num_frames, 1)),
        voiced=np.zeros(num_frames),
        aspiration=np.zeros(num_frames),
        frication=np.zeros(num_frames),
        frication_hz=np.full(num_frames, 4000.0),
    )
    for note in notes:
        start = round(note.onset_s * rate)
        stop = min(round((note.onset_s + note.length_s) * rate), num_frames)
        frames = np.arange(stop - start)
        if len(frames) < 8:
            continue
        level = rng.uniform(0.6, 1.0)
        out.pitch[start:] = note.pitch
        out.vibrato[start:stop] = np.clip((frames / rate - 0.12) / 0.25, 0, 1) * depth * rng.uniform(0.7, 1.1)
        if note.opens_phrase or rng.random() < 0.25:
            out.scoop[start:stop] = -rng.uniform(0.5, 2.5) * np.exp(-frames / rate / rng.uniform(0.04, 0.09))
        if note.opens_phrase:  # A breath is taken before the phrase.
            breath = max(start - round(rng.uniform(0.2, 0.35) * rate), 0)
            out.aspiration[breath : max(start - 4, 0)] = breathiness * rng.uniform(1.0, 2.0)
        kind = str(rng.choice(["fricative", "plosive", "nasal", "glide"]))
        if not note.opens_phrase and rng.random() < 0.2:
            kind = "glide"  # The vowel continues over several notes.
        vowel = start + _consonant(out, kind, start, len(frames), rate, consonant_level, rng)
        vowels = VOWELS[rng.integers(len(VOWELS), size=2)]
        turn = start + round(len(frames) * rng.uniform(0.4, 0.8)) if rng.random() < 0.7 else stop
        out.formants[start:turn], out.formants[turn:] = vowels[0], vowels[1]
        out.voiced[vowel:stop] = level
        if kind == "nasal":
            murmur = min(round(rng.uniform(0.05, 0.1) * rate), len(frames) // 3)
            out.formants[start : start + murmur] = NASAL
            out.voiced[start : start + murmur] = 0.35 * level
        # Notes fade towards their end, and more so before a pause.
        out.voiced[start:stop] *= 1 - 0.4 * (frames / len(frames)) ** 2
        out.aspiration[vowel:stop] = breathiness * level
    return out


def _consonant(out: _Outline, kind: str, start: int, num_frames: int, rate: float, level: float, rng: np.random.Generator) -> int:
    """Put the noise of a fricative or plosive at the start of a note of `num_frames`; return the length of the consonant."""
    length = 0
    if kind == "fricative":
        length = min(round(rng.uniform(0.06, 0.14) * rate), num_frames // 3)
        out.frication[start : start + length] = level * rng.uniform(0.5, 1.0)
        out.frication_hz[start : start + length] = rng.uniform(2500, 6500)
    elif kind == "plosive":
        length = min(round(rng.uniform(0.04, 0.08) * rate), num_frames // 3)
        burst = max(start + length - round(rng.uniform(0.012, 0.03) * rate), start)
        out.frication[burst : start + length] = level * rng.uniform(0.7, 1.3)
        out.frication_hz[start : start + length] = rng.uniform(900, 4500)
    return length


def _formant_gain(frequencies: FloatArray, formants: FloatArray) -> ComplexArray:
    """Response of cascaded resonances: complex (frames, n) at `frequencies` (frames or 1, n) in Hz."""
    gain: ComplexArray = np.ones(np.broadcast_shapes(frequencies.shape, (len(formants), 1)), np.complex128)
    squared = frequencies**2
    for formant in formants.T:
        bandwidth = 50 + 0.045 * formant
        peak = (formant**2)[:, None]
        gain *= peak / (peak - squared + 1j * frequencies * bandwidth[:, None])
    return gain


def _voiced(track: _Articulation, hop: int, sample_rate: int, rng: np.random.Generator) -> FloatArray:
    f0 = 440 * 2 ** ((track.pitch - 69) / 12)
    top = min(0.48 * sample_rate, HIGHEST_HARMONIC_HZ)
    numbers = np.arange(1, int(top / f0[track.voiced > 0].min(initial=f0.max())) + 1)
    frequencies = f0[:, None] * numbers
    tilt = rng.uniform(0.9, 1.3) + 0.3 * (1 - track.voiced)  # A louder voice is brighter.
    amplitudes = _formant_gain(frequencies, track.formants) * numbers ** -tilt[:, None]
    amplitudes *= np.clip((top - frequencies) / (0.05 * top), 0, 1)
    # Singers even out the loudness of their vowels, though not wholly.
    power = np.sqrt(np.sum(np.abs(amplitudes) ** 2, axis=1))
    amplitudes *= (track.voiced / power**0.8)[:, None]
    turn = np.exp(2j * np.pi * np.cumsum(to_samples(f0, hop)) / sample_rate)
    rotation = np.ones_like(turn)
    voice = np.zeros(len(turn))
    for amplitude in amplitudes.T:
        rotation *= turn
        voice += to_samples(amplitude.real, hop) * rotation.real - to_samples(amplitude.imag, hop) * rotation.imag
    return voice


def _noise(track: _Articulation, hop: int, sample_rate: int, rng: np.random.Generator) -> FloatArray:
    """Synthesise breath, fricatives and plosives: white noise shaped frame by frame."""
    size, num_frames = 4 * hop, len(track.pitch)
    window = np.hanning(size + 1)[:-1]
    noise = rng.standard_normal((num_frames + 3) * hop)
    spectra = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(noise, size)[::hop] * window)
    frequencies = np.asarray(np.fft.rfftfreq(size, 1 / sample_rate), np.float64)[None]
    throat = np.abs(_formant_gain(frequencies, track.formants))
    throat /= np.sqrt(np.mean(throat**2, axis=1, keepdims=True))
    distance = np.log2(np.maximum(frequencies, 20) / track.frication_hz[:, None])
    # Fricatives rise steeply towards their frequency and fall slowly above it.
    hiss = np.exp(-0.5 * (distance / np.where(distance < 0, 0.45, 0.9)) ** 2)
    spectra *= track.aspiration[:, None] * throat + track.frication[:, None] * hiss
    frames = np.fft.irfft(spectra, size) * (window / 1.5)
    shaped = np.zeros((num_frames + 3) * hop)
    for part in range(4):
        shaped[part * hop : (part + num_frames) * hop] += frames[:, part * hop : (part + 1) * hop].ravel()
    # Frame k is centred on control frame k; the voiced part has one frame less than there are control points.
    return shaped[2 * hop : (num_frames + 1) * hop]
