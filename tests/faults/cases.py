"""Cases: what a command gets, and what it must then have done or said."""

import contextlib
import dataclasses
import hashlib
import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from damage import damage_archive, damage_bytes, damage_json

from data_pipeline.audio import probe, read_blocks
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import UserError
from data_pipeline.progress import say_once
from jaxpu.cli.__main__ import main

RATE = 8000
PATCH = {"sample-rate": 8000, "clip-samples": 2000, "n-fft": 256, "win-length": 256, "hop-length": 128}
SETTINGS = [*(f"--data.patch.{name}={value}" for name, value in PATCH.items()), "--data.activity-on=off"]
NETWORK = ["--model.channels=2", "--model.blocks=0", "--model.dilations", "1", "1", "1", "1"]
TRAINING = [*NETWORK, "--train.num-steps=2", "--train.eval-every=2", "--train.batch-size=2", "--objective.remix-steps=1"]

# What ffmpeg must be told to write each suffix; some as files, some as through a pipe, where lengths are unknown.
ENCODINGS: dict[str, str] = {
    "s16.wav": "", "float.wav": "-c:a pcm_f32le", "adpcm.wav": "-c:a adpcm_ms", "rf64.wav": "-rf64 always", "x.w64": "",
    "x.aiff": "", "x.caf": "", "x.au": "", "x.flac": "", "ogg.flac.ogg": "-c:a flac", "x.ogg": "-c:a libvorbis",
    "x.opus": "-c:a libopus", "cbr.mp3": "-b:a 64k", "vbr.mp3": "-q:a 4", "bare.mp3": "-q:a 4 -write_xing 0 -id3v2_version 0",
    "x.m4a": "", "x.aac": "", "x.mka": "-c:a libvorbis", "x.webm": "-c:a libopus", "x.wma": "", "x.mp2": "", "x.ac3": "",
    "alac.m4a": "-c:a alac", "x.tta": "", "x.wv": "",
}  # fmt: skip
PIPED = {"pipe.wav": "wav", "pipe.flac": "flac", "pipe.mp3": "mp3", "pipe.mka": "matroska", "pipe.aiff": "aiff", "pipe.au": "au"}


class Fault(Exception):
    """Behaviour that no command may show."""


@dataclasses.dataclass(frozen=True)
class Good:
    """Undamaged files, in the folder `root`: audio, a corpus, two folders of recordings, prepared data, a run and its archive."""

    root: Path

    @property
    def audio(self) -> list[Path]:
        """Short recordings, of every format."""
        return sorted((self.root / "audio").iterdir())


def make_good(root: Path) -> Good:
    """Make the undamaged files with ffmpeg and with jaxpu's own commands."""
    good, rng = Good(root), np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    for channels in (1, 2):
        source = root / f"source{channels}.wav"
        samples = np.sin(np.arange(6000) ** 1.5 / 3000) * 0.3 + rng.normal(0, 0.05, 6000)
        soundfile.write(source, np.repeat(samples[:, None], channels, axis=1) * np.linspace(1, 0.5, channels), RATE)
        for name, options in ENCODINGS.items():
            _ffmpeg(source, *options.split(), root / "audio" / f"{channels}-{name}")
        for name, container in PIPED.items():
            written = subprocess.run(
                ["ffmpeg", "-v", "error", "-i", source, "-f", container, "-"], capture_output=True, check=True
            ).stdout
            (root / "audio" / f"{channels}-{name}").write_bytes(written)
    corpus, songs = root / "corpus", root / "songs"
    run(0, "synthesize", corpus, "--train", 4, "--test", 2, "--seconds", 4, "--sample-rate", RATE)
    for number, song in enumerate(sorted((corpus / "train").iterdir())):
        for name, file in (("with", "mixture.wav"), ("without", "other.wav")):
            (songs / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(song / file, songs / name / f"{number}.wav")
    folders = ("--with", songs / "with", "--without", songs / "without")
    run(0, "prepare", "demo", *folders, *SETTINGS, "-o", root / "data", "--workers", 1)
    run(0, "train", "demo", *SETTINGS, *TRAINING, "--prepared", root / "data", "--run", root / "run")
    run(0, "evaluate", root / "run", corpus, "--workers", 1)
    run(0, "export", root / "run", "-o", root / "model.zip", "--licence", "CC0-1.0", "--description", "Noise.")
    return good


def _ffmpeg(*words: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", *map(str, words)], check=True, stdin=subprocess.DEVNULL)


def run(expected: int | None, *words: object) -> tuple[int, str]:
    """Run a command in this process: its exit status, and all that it printed.

    Raises Fault for a traceback, for a failure without a sentence, and for a status other than `expected`.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main([str(word) for word in words])
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
    text = said.getvalue()
    command = " ".join(map(str, words))
    if "Traceback" in text or "This is a bug" in text:
        raise Fault(f"{command}: {text[-2000:]}")
    if status not in (0, 1, 2) or (expected is not None and status != expected):
        raise Fault(f"{command}: exit status {status}: {text[-2000:]}")
    if status and "jaxpu: " not in text:
        raise Fault(f"{command}: exit status {status} without a reason: {text[-2000:]}")
    return status, text


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def damaged_audio(good: Good, folder: Path, rng: np.random.Generator) -> tuple[str, Path]:
    """A recording that is damaged, joined with another, misnamed, or as it should be: what was done, and its path."""
    source = good.audio[rng.integers(len(good.audio))]
    data, what = source.read_bytes(), "good"
    choice = rng.random()
    if choice < 0.75:
        what, data = damage_bytes(data, rng)
    elif choice < 0.85:
        other = good.audio[rng.integers(len(good.audio))]
        what, data = f"joined with {other.name}", data + other.read_bytes()
    suffix = source.suffix
    if rng.random() < 0.05:
        suffix = good.audio[rng.integers(len(good.audio))].suffix
        what += f" as {suffix}"
    path = folder / f"song{suffix}"
    path.write_bytes(data)
    return f"{source.name} {what}", path


def samples_by_ffmpeg(path: Path, sample_rate: int) -> int:
    """Samples per channel that ffmpeg decodes, however it ends: what is there, by another decoder."""
    output = ["-map", "0:a:0", "-f", "s16le", "-ac", "1", "-ar", str(sample_rate), "-"]
    command = ["ffmpeg", "-v", "quiet", "-nostdin", "-i", f"file:{path}", *output]
    return len(subprocess.run(command, capture_output=True, check=False).stdout) // 2


def reading(good: Good, folder: Path, rng: np.random.Generator) -> str:
    """A recording is read whole, or its error is named; nothing that another decoder finds is left out without a word."""
    what, path = damaged_audio(good, folder, rng)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            count = sum(block.shape[1] for block in read_blocks(path))
        except UserError as error:
            if str(path) not in str(error):
                raise Fault(f"{what}: the error does not name the file: {error}") from error
            return what
    found = samples_by_ffmpeg(path, probe(path).sample_rate)
    # Encoders and decoders disagree on padding: two frames of the longest kind.
    if found > count + 2 * 2048 and not said.getvalue():
        raise Fault(f"{what}: {count} samples, where ffmpeg finds {found}")
    return what


def separating(good: Good, folder: Path, rng: np.random.Generator) -> str:
    """Separated files are as long as the recording, failures are named, and one bad recording stops no other."""
    songs, out = folder / "in", folder / "out"
    songs.mkdir()
    what, path = damaged_audio(good, songs, rng)
    shutil.copy(good.root / "audio" / "1-s16.wav", songs / "good.wav")
    before = contents(folder)
    status, text = run(None, "separate", good.root / "model.zip", songs, "-o", out)
    after = contents(folder)
    if {name: value for name, value in after.items() if not name.startswith("out")} != before:
        raise Fault(f"{what}: inputs changed, or files were written outside the output folder")
    lengths = {name: soundfile.info(out / "good" / name).frames for name in ("vocals.wav", "accompaniment.wav")}
    if set(lengths.values()) != {6000}:
        raise Fault(f"{what}: the undamaged recording was not separated: {lengths}")
    written = [each for each in out.rglob("*.*") if each.parent.name != "good" and each.is_file()]
    left_out = "; left out 1 " in text
    if len(written) != (2 if status == 0 and not left_out else 0) or (status and path.name not in text):
        raise Fault(f"{what}: status {status}, but written is {[each.name for each in written]}: {text[-500:]}")
    if written:
        count = sum(block.shape[1] for block in read_blocks(path))
        if {soundfile.info(each).frames for each in written} != {count}:
            raise Fault(f"{what}: the separated files are not as long as the recording ({count})")
    return what


def preparing(good: Good, folder: Path, rng: np.random.Generator) -> str:
    """One bad recording is named and, if asked for, left out; the data can be read."""
    shutil.copytree(good.root / "songs", folder / "in")
    what, path = damaged_audio(good, folder / "in" / ("with", "without")[rng.integers(2)], rng)
    before, folders = contents(folder), ("--with", folder / "in" / "with", "--without", folder / "in" / "without")
    skip = rng.random() < 0.5
    words = ("prepare", "demo", *folders, *SETTINGS, "-o", folder / "out", "--workers", 1, *(["--skip-bad"] if skip else []))
    status, text = run(0 if skip else None, *words)
    if {name: value for name, value in contents(folder).items() if not name.startswith("out")} != before:
        raise Fault(f"{what}: inputs changed, or files were written outside the output folder")
    if status and path.name not in text:
        raise Fault(f"{what}: the recording is not named: {text[-500:]}")
    if status == 0:
        dataset = PatchDataset.open(folder / "out")
        skipped = any(path.name in name for name in dataset.info["skipped"])
        stored = dataset.info["counts"]["train_mixture"]["tracks"] + dataset.info["counts"]["validation_mixture"]["tracks"]
        stored += dataset.info["counts"]["train_accompaniment"]["tracks"]
        stored += dataset.info["counts"]["validation_accompaniment"]["tracks"]
        # A recording of which a stretch is held out counts twice.
        if stored + skipped not in (9, 10):
            raise Fault(f"{what}: {stored} recordings stored, {skipped} skipped, of 9")
    return what


def evaluating(good: Good, folder: Path, rng: np.random.Generator) -> str:
    """A damaged stem is named; the scores of the other songs are kept."""
    shutil.copytree(good.root / "corpus", folder / "in")
    stems = sorted((folder / "in" / "test").rglob("*.wav"))
    stem = stems[rng.integers(len(stems))]
    what, data = damage_bytes(stem.read_bytes(), rng)
    stem.write_bytes(data)
    before = contents(folder)
    status, text = run(None, "evaluate", good.root / "model.zip", folder / "in", "-o", folder / "out", "--workers", 1)
    if {name: value for name, value in contents(folder).items() if not name.startswith("out")} != before:
        raise Fault(f"{what}: inputs changed, or files were written outside the output folder")
    if status and stem.parent.name not in text:
        raise Fault(f"{what}: the song is not named: {text[-500:]}")
    return f"{stem.name} {what}"


def marking(good: Good, folder: Path, rng: np.random.Generator) -> str:
    """Damaged marks are used as far as they make sense, or their file is named."""
    shutil.copytree(good.root / "songs" / "with", folder / "songs")
    choices = {
        "0.txt": "0.100000\t1.500000\tintro\n\\\t120.0\t4000.0\n2.000000\t3.900000\t\n",
        "1.txt": "#TITLE:One\n#MP3:1.wav\n#BPM:120\n#GAP:0\n: 26 2 4 la\n- 28\n: 29 1 4 la\nE\n",
        "marks.csv": "file,begin,end\n0.wav,0.1,1.5\n2.wav,0:01,0:03.9\n3,1,2\n",
    }
    name = sorted(choices)[rng.integers(len(choices))]
    path = folder / "labels" / name
    path.parent.mkdir()
    what, data = damage_bytes(choices[name].encode(), rng)
    path.write_bytes(data)
    before = contents(folder)
    marks = path if name.endswith(".csv") else path.parent
    sources = ("--with", folder / "songs", "--marks", marks, "-o", folder / "out")
    status, text = run(None, "prepare", "demo", *sources, *SETTINGS, "--workers", 1)
    if status and not any(named in text for named in (str(path), str(marks), "target-free", "clips", "with_target/")):
        raise Fault(f"{name} {what}: {text[-500:]}")
    if {each: digest for each, digest in contents(folder).items() if not each.startswith("out")} != before:
        raise Fault(f"{name} {what}: inputs changed")
    return f"{name} {what}"


def archive(good: Good, folder: Path, rng: np.random.Generator) -> str:
    """A damaged archive is described or separates with finite numbers, or its error is named."""
    path = folder / "model.zip"
    shutil.copy(good.root / "model.zip", path)
    what = damage_archive(path, rng)
    before = contents(folder)
    status, text = run(None, "info", path)
    if rng.random() < 0.5:
        status, text = run(None, "separate", path, good.root / "audio" / "1-s16.wav", "-o", folder / "out")
        for written in folder.glob("out/**/*.wav"):
            if not np.isfinite(soundfile.read(written)[0]).all():
                raise Fault(f"{what}: separated into NaN")
    if status and "model.zip" not in text and "1-s16" not in text:
        raise Fault(f"{what}: the archive is not named: {text[-500:]}")
    if {name: value for name, value in contents(folder).items() if not name.startswith("out")} != before:
        raise Fault(f"{what}: the archive changed, or files were written outside the output folder")
    return what


def stored_document(good: Good, folder: Path, rng: np.random.Generator) -> str:
    """A damaged JSON file, log or index of a run or of prepared data is worked around or named."""
    choices = {
        "run/config.json": ("info", "compare"),
        "run/metrics.jsonl": ("compare",),
        "run/evaluation/scores.json": ("info", "compare"),
        "data/jaxpu.json": ("info", "estimate-prior"),
        "data/index.npz": ("estimate-prior",),
    }
    name = sorted(choices)[rng.integers(len(choices))]
    top = name.partition("/")[0]
    shutil.copytree(good.root / top, folder / top)
    path = folder / name
    if name.endswith(".json"):
        what, text = damage_json(path.read_text(), rng)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
    else:
        what, data = damage_bytes(path.read_bytes(), rng)
        path.write_bytes(data)
    before = contents(folder)
    for command in choices[name]:
        words = (
            ("compare", folder / "run", folder / "run", "-o", folder / "out.html")
            if command == "compare"
            else (command, folder / top)
        )
        run(None, *words)
    if {each: value for each, value in contents(folder).items() if each != "out.html"} != before:
        raise Fault(f"{name}: {what}: files changed")
    return f"{name} {what}"


def records(good: Good, folder: Path, rng: np.random.Generator) -> str:
    """Of damaged records either the same batches are read, or the file is named."""
    shutil.copytree(good.root / "data", folder / "data")
    files = sorted((folder / "data").glob("*.tfrecord-*"))
    path = files[rng.integers(len(files))]
    what, data = damage_bytes(path.read_bytes(), rng)
    path.write_bytes(data)
    split = "train" if "train" in path.name else "validation"

    def batches(directory: Path) -> list[dict[str, np.ndarray]]:
        dataset = PatchDataset.open(directory)
        return list(dataset.batches(split, batch_size=2, seed=0, disjoint_tracks=False, num_steps=8, with_target=False))

    try:
        found = batches(folder / "data")
    except UserError as error:
        if path.name not in str(error) and str(folder) not in str(error):
            raise Fault(f"{path.name} {what}: the error does not name the file: {error}") from error
        return f"{path.name} {what}"
    for one, other in zip(found, batches(good.root / "data"), strict=True):
        if any(not np.array_equal(one[name], other[name]) for name in other):
            raise Fault(f"{path.name} {what}: other numbers were read, without a word")
    return f"{path.name} {what}"


CASES: dict[str, tuple[float, Callable[[Good, Path, np.random.Generator], str]]] = {
    "reading": (0.47, reading),
    "marking": (0.03, marking),
    "separating": (0.12, separating),
    "preparing": (0.06, preparing),
    "evaluating": (0.01, evaluating),
    "archive": (0.13, archive),
    "document": (0.12, stored_document),
    "records": (0.06, records),
}
"""Share and function of every kind of case.  A function returns what was damaged, and how, or raises an error."""


def run_case(good: Good, folder: Path, seed: int) -> str:
    """Run the case of a seed in an empty folder; return its kind and damage."""
    rng = np.random.default_rng(seed)
    names = list(CASES)
    name = names[rng.choice(len(names), p=[CASES[each][0] for each in names])]
    folder.mkdir(parents=True)
    os.chdir(folder)
    say_once.cache_clear()  # Every case has files of the same names.
    try:
        what = CASES[name][1](good, folder, rng)
    except Fault as error:
        raise Fault(f"{name}: {error}") from error
    finally:
        os.chdir(good.root)
        shutil.rmtree(folder, ignore_errors=True)
    return f"{name}: {what}"
