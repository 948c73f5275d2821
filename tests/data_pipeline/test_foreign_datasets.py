"""Prepared data that other programs wrote, or damage: one sentence that names the file and the field, or data."""

import json
import random
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import soundfile

from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import CorpusError, DataError, UserError
from data_pipeline.files import LOCK_FILE
from data_pipeline.layout import read_info
from data_pipeline.prepare import prepare
from data_pipeline.synthetic.songs import synthesize
from data_pipeline.tfrecord import read_record
from data_pipeline.tracks import Musdb18HQ
from jaxpu.artifacts.info import describe, to_text
from jaxpu.cli.__main__ import main

RATE = 8000
CONFIG = DataConfig(
    patch=PatchSpec(sample_rate=RATE, clip_samples=2000, n_fft=256, win_length=256, hop_length=128), validation_share=0.3
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Musdb18HQ:
    root = tmp_path_factory.mktemp("corpus")
    for song in range(4):
        folder = root / "train" / f"Song {song}"
        folder.mkdir(parents=True)
        generator = np.random.default_rng([7, song])
        stems = {name: generator.integers(-3000, 3000, (RATE, 1)).astype(np.int16) for name in STEMS}
        for name, stem in (stems | {"mixture": sum(stems.values())}).items():
            soundfile.write(folder / f"{name}.wav", stem, RATE, subtype="PCM_16")
    return Musdb18HQ(root)


@pytest.fixture(scope="module")
def good(source: Musdb18HQ, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("good") / "data"
    prepare(source, CONFIG, directory, num_workers=1, progress=False)
    return directory


@pytest.fixture
def directory(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "data"))


def refused(directory: Path, named: str) -> None:
    begin = time.process_time()
    with pytest.raises(DataError) as caught:
        PatchDataset.open(directory)
    assert time.process_time() - begin < 5
    assert str(directory) in str(caught.value)
    assert named in str(caught.value)


SHARD = "jaxpu-train_mixture.tfrecord-00000-of-00002"

FIELDS: list[tuple[tuple[Any, ...], Any, str]] = [
    ((), [], "is []"),
    ((), None, "is None"),
    (("format",), "1", "has format '1'"),
    (("config", "patch", "sample_rate"), 16000.5, "config.patch.sample_rate is 16000.5"),
    (("config", "patch", "sample_rate"), 10**12, "PatchSpec.sample_rate is 1000000000000"),
    (("config", "patch", "window"), "kaiser", "config.patch.window is 'kaiser'"),
    (("config", "target"), "vocals", "config.target is 'vocals'"),
    (("config", "patch", "n_fft"), 512, ""),
    (("config",), None, "config is None"),
    (("has_stems",), 1, "has_stems is 1"),
    (("counts",), {}, "shards has 'train_mixture'"),
    (("counts", "train_mixture", "stored"), 10**15, "counts.train_mixture.stored is 1000000000000000"),
    (("counts", "train_mixture", "stored"), -1, "counts.train_mixture.stored is -1"),
    (("counts", "train_mixture", "stored"), 1, "stored is 1, kept 8"),
    (("counts", "train_mixture", "kept"), 10**6, "kept 1000000"),
    (("counts", "train_mixture", "kept"), 1, "active marks"),
    (("counts", "train_mixture", "kept_s"), "long", "counts.train_mixture.kept_s is 'long'"),
    (("comparison",), [], "comparison is []"),
    (("comparison",), {"warnings": "none"}, "comparison.warnings is 'none'"),
    (("skipped",), ["a"], "skipped is ['a']"),
    (("tracks",), {}, "tracks is {}"),
    (("tracks", 0, "id"), -3, "tracks must have ids"),
    (("tracks", 0, "id"), 2, "tracks must have ids"),
    (("tracks", 0, "split"), "test", "tracks[0].split is 'test'"),
    (("tracks", 0, "kept"), {"mixture": 1.5}, "tracks[0].kept.mixture is 1.5"),
    (("tracks",), [], "track has numbers"),
    (("shards", "train_mixture"), "all", "shards.train_mixture is 'all'"),
    (("shards", "train_mixture", 0), "../elsewhere", "which files has not"),
    (("shards", "other"), [], "shards has 'other'"),
    (("shards", "train_mixture"), [], "counts.train_mixture.stored"),
    (("files", "../../elsewhere"), 3, "files has '../../elsewhere'"),
    (("files", "/etc/passwd"), 3, "files has '/etc/passwd'"),
    (("files", ".."), 3, "files has '..'"),
    (("files", SHARD), -5, "-5 bytes"),
    (("files", SHARD), 0.5, f"files.{SHARD} is 0.5"),
    (("files", SHARD), 10**15, f"{SHARD}: has "),
    (("fingerprint",), None, "fingerprint is None"),
]


@pytest.mark.parametrize(("path", "value", "named"), FIELDS, ids=lambda value: str(value)[:40])
def test_a_field_that_is_wrong_is_named(json_damage: Any, directory: Path, path: tuple[Any, ...], value: Any, named: str) -> None:
    file = directory / "jaxpu.json"
    file.write_text(json.dumps(json_damage.changed(json.loads(file.read_text()), path, value)))
    refused(directory, named)


@pytest.mark.parametrize("name", ["config", "counts", "shards", "files", "tracks", "has_stems", "format"])
def test_a_missing_field_is_named(json_damage: Any, directory: Path, name: str) -> None:
    file = directory / "jaxpu.json"
    file.write_text(json.dumps(json_damage.removed(json.loads(file.read_text()), (name,))))
    refused(directory, "has format None" if name == "format" else f"{name} is missing")


def with_arrays(**changes: Callable[[np.ndarray], Any]) -> Callable[[Path], None]:
    """Change arrays of the index by their names, with two underscores for the slash; None removes one."""

    def damage(path: Path) -> None:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        for name, change in changes.items():
            key = name.replace("__", "/")
            arrays[key] = change(arrays[key])
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})

    return damage


INDEX: dict[str, tuple[Callable[[Path], Any], str]] = {
    "shard outside": (with_arrays(train_mixture__shard=lambda array: array + 9), "train_mixture/shard"),
    "negative shard": (with_arrays(train_mixture__shard=lambda array: array - 1), "train_mixture/shard"),
    "offset outside": (with_arrays(train_mixture__offset=lambda array: array + 10**12), "train_mixture/offset"),
    "largest offset": (with_arrays(train_mixture__offset=lambda array: np.full_like(array, 2**63 - 1)), "train_mixture/offset"),
    "negative offset": (with_arrays(train_mixture__offset=lambda array: array - 1), "train_mixture/offset"),
    "other tracks": (with_arrays(train_mixture__track=lambda array: array + 50), "train_mixture/track"),
    "negative start": (with_arrays(train_mixture__start=lambda array: array - 10**6), "train_mixture/start"),
    "nothing active": (with_arrays(train_mixture__active=lambda array: array & False), "train_mixture/active"),
    "fewer": (with_arrays(train_mixture__start=lambda array: array[1:]), "train_mixture/start is int64"),
    "two axes": (with_arrays(train_mixture__start=lambda array: array[None]), "train_mixture/start is int64"),
    "fractions": (with_arrays(train_mixture__start=lambda array: array + 0.5), "train_mixture/start is float64"),
    "objects": (with_arrays(train_mixture__start=lambda array: array.astype(object)), "train_mixture/start is object"),
    "missing": (with_arrays(train_mixture__start=lambda _: None), "train_mixture/start is missing"),
    "other clips": (with_arrays(train_accompaniment__start=lambda array: array[::-1]), "do not hold the same clips"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-40]), "index.npz"),
    "text": (lambda path: path.write_text("index"), "index.npz"),
}


@pytest.mark.parametrize("damage", INDEX)
def test_an_index_that_does_not_fit(directory: Path, damage: str) -> None:
    change, named = INDEX[damage]
    change(directory / "index.npz")
    file = directory / "jaxpu.json"
    info = json.loads(file.read_text())
    info["files"]["index.npz"] = (directory / "index.npz").stat().st_size
    file.write_text(json.dumps(info))
    refused(directory, named)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"NaN"], ids=str)
def test_metadata_that_are_no_json(directory: Path, content: bytes) -> None:
    (directory / "jaxpu.json").write_bytes(content)
    with pytest.raises(DataError, match=r"jaxpu\.json"):
        read_info(directory)
    (directory / "jaxpu.json").unlink()
    (directory / "jaxpu.json").mkdir()
    with pytest.raises(DataError, match=r"jaxpu\.json"):
        read_info(directory)


def masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(payload: bytes, length: int | None = None) -> bytes:
    """A record with correct checksums, which may announce another length."""
    header = struct.pack("<Q", len(payload) if length is None else length)
    return header + masked_crc(header) + payload + masked_crc(payload)


def record_at_the_start(path: Path, record: bytes) -> None:
    """Overwrite the beginning of a file."""
    content = bytearray(path.read_bytes())
    content[: len(record)] = record
    path.write_bytes(content[: path.stat().st_size])


RECORDS: dict[str, bytes] = {
    "no example": framed(b"\xff" * 100),
    "an empty example": framed(b""),
    "2^20": framed(b"", 2**20),
    "2^40": framed(b"", 2**40),
    "2^62": framed(b"", 2**62),
    "2^64 - 1": framed(b"", 2**64 - 1),
    "zeros": bytes(200),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", RECORDS)
def test_records_that_are_damaged_or_announce_other_lengths(directory: Path, damage: str) -> None:
    for path in directory.glob("jaxpu-train_*.tfrecord-*"):
        record_at_the_start(path, RECORDS[damage])
    dataset = PatchDataset.open(directory)
    with pytest.raises(DataError, match=str(directory)):
        list(dataset.batches("train", batch_size=4, seed=0, num_steps=12, disjoint_tracks=False, with_target=True))


@pytest.mark.parametrize("offset", [-1, 10**12, 2**63 - 1, 2**70])
def test_a_record_outside_its_file(directory: Path, offset: int) -> None:
    with pytest.raises(DataError, match=SHARD):
        read_record(directory / SHARD, offset)


def test_every_value_in_turn_is_refused_or_read(json_damage: Any, directory: Path) -> None:
    """A sample of all damage by `tests.conftest.JsonDamage`; the seed is printed."""
    seed = random.randrange(2**32)
    print("seed", seed)
    file = directory / "jaxpu.json"
    every = list(json_damage.variants(json.loads(file.read_text())))
    outcomes = {"read": 0, "refused": 0}
    for path, value, foreign in random.Random(seed).sample(every, 300):
        file.write_text(json.dumps(foreign))
        begin, message = time.process_time(), str(directory)
        try:
            to_text(describe(str(directory)))
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            message = str(error)
        assert str(directory) in message, (path, value)
        assert time.process_time() - begin < 2, (path, value)
    assert min(outcomes.values()) > 10


def test_the_command_says_one_sentence(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "jaxpu.json").write_text('{"format": 1, "fingerprint": []}')
    assert main(["info", str(directory)]) == 1
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1
    assert "jaxpu.json" in printed.err


@pytest.mark.parametrize("content", ["", "[]", '{"fingerprint": 1, "moves": 3}', '{"fingerprint": "0"}'])
def test_what_an_interruption_left_damaged_is_made_again(source: Musdb18HQ, good: Path, tmp_path: Path, content: str) -> None:
    unfinished = tmp_path / "data" / "unfinished"
    unfinished.mkdir(parents=True)
    (unfinished / "plan.json").write_text(content)
    (unfinished / LOCK_FILE).touch()
    (unfinished / "tracks").mkdir()
    prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert (tmp_path / "data" / "jaxpu.json").read_bytes() == (good / "jaxpu.json").read_bytes()


@pytest.mark.parametrize("content", ["[]", "{", "null"])
def test_the_settings_of_a_corpus_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "synthetic.json").write_text(content)
    with pytest.raises(CorpusError, match=r"synthetic\.json"):
        synthesize(tmp_path, num_train=1, num_test=1, seconds=4.0, sample_rate=RATE, num_workers=1, progress=False)
