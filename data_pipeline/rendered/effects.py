"""Effects of a studio: chains of ffmpeg's filters, rooms, and a limiter for the sum.  Signals are float32 (2, samples)."""

import subprocess

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import scipy.signal

from data_pipeline.rendered.programs import run

Signal = npt.NDArray[np.float32]

CHAIN_RMS = 0.1
"""Root mean square over the sounding samples at which a signal enters a chain: thresholds of compressors refer to it."""

_LIMITER_BLOCK_S = 0.004


def active_rms(signal: Signal) -> float:
    """Root mean square of the samples that are not near silence; 0 for silence."""
    loud = np.abs(signal).max(0)
    chosen = signal[:, loud > 1e-3 * loud.max(initial=0.0)] if loud.any() else signal[:, :0]
    return float(np.sqrt(np.mean(np.square(chosen)))) if chosen.size else 0.0


def scaled(signal: Signal, rms: float) -> Signal:
    """Scale a signal to a root mean square of its sounding samples; silence stays."""
    present = active_rms(signal)
    return signal * np.float32(rms / present) if present > 0 else signal


def apply(chain: list[str], signal: Signal, sample_rate: int) -> Signal:
    """Send a signal through filters of ffmpeg at `CHAIN_RMS`.

    Raises:
        CorpusError: ffmpeg is missing or does not know a filter.
    """
    if not chain or not signal.any():
        return signal
    raw = ["-f", "f32le", "-ar", str(sample_rate), "-ac", "2"]
    command = ["ffmpeg", "-v", "error", "-nostdin", *raw, "-i", "pipe:0", "-af", ",".join(chain), *raw, "-bitexact", "pipe:1"]
    sent = np.ascontiguousarray(scaled(signal, CHAIN_RMS).T, "<f4").tobytes()
    heard = np.frombuffer(run(command, input=sent, stdout=subprocess.PIPE).stdout, "<f4").reshape(-1, 2).T
    result = np.zeros_like(signal)
    length = min(heard.shape[1], signal.shape[1])
    result[:, :length] = heard[:, :length]
    return result


def coded(signal: Signal, sample_rate: int, codec: str, kilobits: int) -> Signal:
    """Write a signal as MP3 ("mp3") or AAC ("aac") and read it again, at the same time and length."""
    raw = ["-f", "f32le", "-ar", str(sample_rate), "-ac", "2"]
    name, container = {"mp3": ("libmp3lame", "mp3"), "aac": ("aac", "adts")}[codec]
    write = ["ffmpeg", "-v", "error", "-nostdin", *raw, "-i", "pipe:0", "-c:a", name, "-b:a", f"{kilobits}k"]
    sent = np.ascontiguousarray(signal.T, "<f4").tobytes()
    stream = run([*write, "-bitexact", "-f", container, "pipe:1"], input=sent, stdout=subprocess.PIPE).stdout
    read = ["ffmpeg", "-v", "error", "-nostdin", "-f", container if codec == "mp3" else "aac", "-i", "pipe:0", *raw, "pipe:1"]
    heard = np.frombuffer(run(read, input=stream, stdout=subprocess.PIPE).stdout, "<f4").reshape(-1, 2).T
    return _aligned(heard, signal)


def _aligned(heard: npt.NDArray[np.float32], signal: Signal) -> Signal:
    """Shift what a codec gave back by its delay, found by correlation, to the length of the signal."""
    size = min(heard.shape[1], signal.shape[1], 2**18)
    begin = (signal.shape[1] - size) // 2
    present = signal[:, begin : begin + size].sum(0)
    later = heard[:, begin : begin + size].sum(0)
    spectrum = np.fft.rfft(later, 2 * size) * np.conj(np.fft.rfft(present, 2 * size))
    delay = int(np.argmax(np.fft.irfft(spectrum)[:4096]))
    result = np.zeros_like(signal)
    length = min(heard.shape[1] - delay, signal.shape[1])
    result[:, :length] = heard[:, delay : delay + length]
    return result


def placed(signal: npt.NDArray[np.float32], pan: float) -> Signal:
    """Place a mono signal between left (0) and right (1) at constant power."""
    gains = np.sqrt(2) * np.array([np.cos(pan * np.pi / 2), np.sin(pan * np.pi / 2)])
    return (gains[:, None] * signal).astype(np.float32)


def reverberate(signal: Signal, sample_rate: int, rng: np.random.Generator, *, wet: tuple[float, float] = (0.03, 0.35)) -> Signal:
    """Add the tail of a room: noise that decays faster at high frequencies, after a few early reflections."""
    decay_s, predelay_s = float(np.exp(rng.uniform(np.log(0.2), np.log(2.8)))), rng.uniform(0, 0.05)
    num = round(1.2 * decay_s * sample_rate)
    seconds = np.arange(num) / sample_rate
    noise = rng.standard_normal((2, num))
    dull = scipy.signal.lfilter([0.25], [1, -0.75], noise)
    bright = noise - dull
    damping = rng.uniform(0.3, 0.9)
    tail = dull * np.exp(-6.9 * seconds / decay_s) + bright * np.exp(-6.9 * seconds / (damping * decay_s))
    for _ in range(int(rng.integers(0, 6))):
        at = int(rng.uniform(0.003, 0.04) * sample_rate)
        if at < num:
            tail[:, at] += rng.uniform(2, 12, 2) * rng.choice([-1, 1])
    tail /= np.sqrt(np.square(tail).sum(1, keepdims=True))
    wet_signal = scipy.signal.oaconvolve(signal, tail, axes=1)[:, : signal.shape[1]]
    delay = round(predelay_s * sample_rate)
    late = np.pad(wet_signal, ((0, 0), (delay, 0)))[:, : signal.shape[1]]
    return (signal + rng.uniform(*wet) * late).astype(np.float32)


def limiter_gain(signals: Signal, sample_rate: int, limit: float, release_s: float) -> npt.NDArray[np.float32]:
    """Gain of each sample, at most 1, that keeps all of (signals, samples) within a limit: float32 (samples,).

    It falls before a peak and recovers after it within about the release time.
    """
    block = max(round(_LIMITER_BLOCK_S * sample_rate), 1)
    peaks = np.abs(signals).max(0)
    num_blocks = -(-len(peaks) // block)
    highest = np.pad(peaks, (0, num_blocks * block - len(peaks))).reshape(num_blocks, block).max(1)
    needed_db = 20 * np.log10(np.minimum(1, limit / np.maximum(highest, 1e-9)))
    # The least gain of neighbouring blocks, so that interpolation between blocks never exceeds what one of them allows.
    needed_db = scipy.ndimage.minimum_filter1d(needed_db, 3)
    recovery_db = 12 * block / sample_rate / release_s
    gain_db, last = np.empty(num_blocks), 0.0
    for number, wanted in enumerate(needed_db):
        last = min(wanted, last + recovery_db)
        gain_db[number] = last
    at = np.arange(len(peaks)) / block - 0.5
    return (10 ** (np.interp(at, np.arange(num_blocks), gain_db) / 20)).astype(np.float32)


def _equalizer(rng: np.random.Generator, spread_db: float) -> list[str]:
    """One to three bands at random places."""
    return [
        f"equalizer=f={np.exp(rng.uniform(np.log(80), np.log(12_000))):.0f}:t=q:w={rng.uniform(0.4, 2):.2f}"
        f":g={rng.normal(0, spread_db):.1f}"
        for _ in range(int(rng.integers(1, 4)))
    ]


def _compressor(rng: np.random.Generator) -> str:
    return (
        f"acompressor=threshold={10 ** (rng.uniform(-32, -14) / 20):.4f}:ratio={rng.uniform(1.5, 8):.1f}"
        f":attack={rng.uniform(1, 40):.0f}:release={rng.uniform(40, 400):.0f}:makeup=2"
    )


_MODULATIONS = (
    "chorus=0.7:0.9:{a:.0f}:0.4:{r:.2f}:2",
    "aphaser=type=t:speed={r:.2f}:decay=0.4",
    "tremolo=f={t:.1f}:d={d:.2f}",
    "flanger=delay=2:depth=3:speed={r:.2f}",
)


def _modulation(rng: np.random.Generator) -> str:
    chosen = str(rng.choice(_MODULATIONS))
    return chosen.format(a=rng.uniform(25, 55), r=rng.uniform(0.15, 0.9), t=rng.uniform(2, 8), d=rng.uniform(0.2, 0.7))


def amplifier(rng: np.random.Generator) -> list[str]:
    """A driven amplifier and its cabinet, for guitars."""
    return [
        f"highpass=f={rng.uniform(70, 250):.0f}",
        f"volume={rng.uniform(8, 38):.1f}dB",
        f"asoftclip=type={rng.choice(['tanh', 'atan', 'cubic', 'exp'])}",
        f"equalizer=f={rng.uniform(400, 3000):.0f}:t=q:w={rng.uniform(0.5, 1.5):.2f}:g={rng.uniform(-6, 6):.1f}",
        f"lowpass=f={rng.uniform(3500, 7500):.0f}",
        f"lowpass=f={rng.uniform(4500, 9000):.0f}",
    ]


def instrument_chain(family: str, driven: bool, rng: np.random.Generator) -> list[str]:
    """Filters for an instrument of a family, or "drums" or "bass"."""
    chain = amplifier(rng) if driven else []
    chain += _equalizer(rng, 4.0)
    if family not in ("drums", "bass"):
        chain.append(f"highpass=f={rng.uniform(40, 180):.0f}")
    if rng.random() < 0.5:
        chain.append(_compressor(rng))
    if family in ("drums", "bass") and rng.random() < 0.25:
        chain += [f"volume={rng.uniform(3, 14):.1f}dB", "asoftclip=type=tanh"]
    if family not in ("drums", "bass") and rng.random() < 0.25:
        chain.append(_modulation(rng))
    if family not in ("drums", "bass") and rng.random() < 0.15:
        chain.append(f"aecho=0.9:0.9:{rng.uniform(120, 500):.0f}:{rng.uniform(0.1, 0.4):.2f}")
    return chain


def vocal_chain(rng: np.random.Generator) -> list[str]:
    """Filters for vocals: mostly a compressor and less bass, now and then saturation, a telephone's band or echoes."""
    chain = [f"highpass=f={rng.uniform(60, 180):.0f}", *_equalizer(rng, 4.0)]
    if rng.random() < 0.5:
        chain.append(f"treble=g={rng.uniform(-3, 8):.1f}:f={rng.uniform(3000, 7000):.0f}")
    if rng.random() < 0.85:
        chain.append(_compressor(rng))
    if rng.random() < 0.2:
        chain += [f"volume={rng.uniform(3, 18):.1f}dB", "asoftclip=type=tanh"]
    if rng.random() < 0.05:
        chain += [f"highpass=f={rng.uniform(300, 600):.0f}", f"lowpass=f={rng.uniform(2500, 4000):.0f}"]
    if rng.random() < 0.1:
        chain.append(_modulation(rng))
    if rng.random() < 0.25:
        chain.append(f"aecho=0.9:0.9:{rng.uniform(120, 600):.0f}:{rng.uniform(0.1, 0.4):.2f}")
    return chain
