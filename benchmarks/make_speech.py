"""Synthesize noisy speech and noise for PULSE's own experiment, from text, speech synthesis and random numbers.

    python benchmarks/make_speech.py ROOT

    ROOT/noisy/*.wav, ROOT/noise/*.wav                      two folders to train on, with different noise
    ROOT/corpus/test/NAME/{mixture,vocals,other,...}.wav    for scoring, in the layout of MUSDB18-HQ; the speech is `vocals`

16 kHz, mono, 10 s each.  The ratio of speech to noise is uniform between -5 and 10 dB, as in PULSE's training lists.  Needs
flite or espeak-ng.  Every file is a function of the seed and its number.
"""

import argparse
import functools
import io
import shutil
import subprocess
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
import soxr

from data_pipeline.progress import progress_bar

RATE = 16_000
SECONDS = 10.0
RATIO_DB = (-5.0, 10.0)
NOISE_RMS = 0.03
WORDS = (
    "about after again always answer away because been before began between boat bring carry change city clear close cold come "
    "country cross dark draw early earth evening every family farm father feel few field find first follow food friend garden "
    "give great green ground group hand hard hear help high home horse house idea island keep kind know land large last late "
    "learn leave letter light listen little long measure minute money morning mother mountain music never night north notice "
    "number often open order page paper pattern people picture place plain plant point pull quick quiet rain reach ready river "
    "road round school second short show simple small snow song sound south special stand stone story street sudden summer "
    "table teach thousand through today together town travel tree under until voice wait walk water weather white window winter "
    "wonder wood world write year young"
)
FLITE_VOICES = ("slt", "rms", "awb", "kal16")
ESPEAK_VOICES = ("en-us+f2", "en-us+m3", "en-gb+f4", "en-gb+m1")


def speech(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Sentences of one voice with pauses between them, float64 (num_samples,), with deviation 1 outside the pauses."""
    parts, missing = [], num_samples
    voices = [("flite", voice) for voice in FLITE_VOICES] if shutil.which("flite") else []
    voices += [("espeak-ng", voice) for voice in ESPEAK_VOICES] if shutil.which("espeak-ng") else []
    if not voices:
        raise SystemExit("Neither flite nor espeak-ng is installed: apt install flite, or espeak-ng.")
    program, voice = voices[rng.integers(len(voices))]
    while missing > 0:
        words = " ".join(rng.choice(WORDS.split(), rng.integers(4, 10)))
        sentence = flite(words, voice) if program == "flite" else espeak(words, voice)
        pause = np.zeros(int(rng.uniform(0.2, 1.2) * RATE))
        parts += [sentence, pause]
        missing -= len(sentence) + len(pause)
    joined = np.concatenate(parts)[:num_samples]
    loud = np.abs(joined) > 0.05 * np.abs(joined).max()
    return joined / joined[loud].std()


def flite(text: str, voice: str) -> np.ndarray:
    """Synthesize speech with flite, at RATE."""
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", file.name], check=True, capture_output=True)
        samples, rate = soundfile.read(file.name)
    return np.asarray(soxr.resample(samples, rate, RATE))


def espeak(text: str, voice: str) -> np.ndarray:
    """Synthesize speech with espeak-ng, at RATE."""
    wav = subprocess.run(["espeak-ng", "-v", voice, "--stdout", text], check=True, capture_output=True).stdout
    samples, rate = soundfile.read(io.BytesIO(wav))
    return np.asarray(soxr.resample(samples, rate, RATE))


def noise(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Wind, machines and rain in random proportions, float64 (num_samples,), with deviation 1."""
    frequencies = np.fft.rfftfreq(num_samples, 1 / RATE)
    seconds = np.arange(num_samples) / RATE

    def coloured(shape: np.ndarray) -> np.ndarray:
        return np.fft.irfft(np.fft.rfft(rng.standard_normal(num_samples)) * shape, num_samples)

    # A slope of 0 to 9 dB an octave and a resonance; it swells and fades.
    slope = (np.maximum(frequencies, 60) / 1000) ** -rng.uniform(0, 1.5)
    resonance = 1 + rng.uniform(0, 4) * np.exp(-(np.log2(np.maximum(frequencies, 1) / rng.uniform(200, 4000)) ** 2) / 0.1)
    swell = 10 ** (rng.uniform(0, 6) / 20 * np.sin(2 * np.pi * (rng.uniform(0.1, 1) * seconds + rng.random())))
    wind = coloured(slope * resonance) * swell
    # Harmonics of a speed that drifts.
    turning = rng.uniform(30, 120) * (1 + 0.1 * np.sin(2 * np.pi * (rng.uniform(0.05, 0.5) * seconds + rng.random())))
    phase = 2 * np.pi * np.cumsum(turning) / RATE
    machine = np.zeros(num_samples)
    for order in range(1, 30):
        machine += rng.exponential() / order * np.sin(order * phase + rng.uniform(0, 6))
    # Drops: decaying clicks.
    clicks = (rng.random(num_samples) < rng.uniform(5, 200) / RATE) * rng.exponential(size=num_samples)
    decay = np.exp(-np.arange(400) / rng.uniform(10, 80)) * rng.standard_normal(400)
    rain = np.convolve(clicks, decay)[:num_samples]
    weights = rng.dirichlet([0.6] * 3) ** 0.5
    mixed = np.sum([weight * part / part.std() for weight, part in zip(weights, (wind, machine, rain), strict=True)], axis=0)
    return np.asarray(mixed / mixed.std())


def make(job: tuple[Path, int, int, str]) -> None:
    """Write the files of one job: (root, seed, number, kind), with the kind "noisy", "noise" or "test"."""
    root, seed, number, kind = job
    rng = np.random.default_rng([seed, ("noisy", "noise", "test").index(kind), number])
    num_samples = int(SECONDS * RATE)
    background = NOISE_RMS * noise(rng, num_samples)
    write = functools.partial(soundfile.write, samplerate=RATE, subtype="PCM_16")
    if kind == "noise":
        write(root / "noise" / f"{number:03}.wav", background)
        return
    voice = NOISE_RMS * 10 ** (rng.uniform(*RATIO_DB) / 20) * speech(rng, num_samples)
    gain = min(1.0, 0.95 / np.abs(voice + background).max())
    voice, background = (np.rint(gain * signal * 2**15) / 2**15 for signal in (voice, background))
    if kind == "noisy":
        write(root / "noisy" / f"{number:03}.wav", voice + background)
        return
    folder = root / "corpus" / "test" / f"speech {number:03}"
    folder.mkdir(parents=True, exist_ok=True)
    silence = np.zeros(num_samples)
    stems = {"mixture": voice + background, "vocals": voice, "other": background, "drums": silence, "bass": silence}
    for stem, signal in stems.items():
        write(folder / f"{stem}.wav", signal)


def main() -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder to write to")
    parser.add_argument("--train", type=int, default=150, help="files of noisy speech, and of noise")
    parser.add_argument("--test", type=int, default=20, help="files to score on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for folder in ("noisy", "noise"):
        (arguments.root / folder).mkdir(parents=True, exist_ok=True)
    kinds = {"noisy": arguments.train, "noise": arguments.train, "test": arguments.test}
    jobs = [(arguments.root, arguments.seed, number, kind) for kind, count in kinds.items() for number in range(count)]
    with ProcessPoolExecutor() as pool, progress_bar(len(jobs), "speech", "file") as bar:
        for _ in pool.map(make, jobs):
            bar.update()


if __name__ == "__main__":
    main()
