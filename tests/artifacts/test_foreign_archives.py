"""Archives of models that other programs wrote, or damage: one sentence that names the file and the field, or a model."""

import functools
import io
import itertools
import json
import random
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.errors import UserError
from jaxpu.artifacts.archive import ArchiveError, read_description, read_variables
from jaxpu.artifacts.checkpoints import CheckpointError, load_model
from jaxpu.artifacts.info import describe, to_text
from jaxpu.cli.__main__ import main
from jaxpu.config_files import from_json
from jaxpu.core.network import variable_shapes

DATA = Path(__file__).parents[1] / "data"
GOOD = DATA / "earlier_model.zip"


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    with zipfile.ZipFile(GOOD) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def document(files: dict[str, bytes]) -> Any:
    return json.loads(files["model.json"])


@pytest.fixture(scope="module")
def shapes(document: Any) -> Any:
    return variable_shapes(from_json(document["config"]))


def write(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def refused(path: Path, *named: str) -> None:
    """Reading is refused quickly, in one sentence that names the file and what is wrong."""
    begin = time.process_time()
    with pytest.raises(ArchiveError) as caught:
        load_model(path)
    assert time.process_time() - begin < 5
    for text in (str(path), *named):
        assert text in str(caught.value)


PATCH, MODEL = ("config", "data", "patch"), ("config", "model")

FIELDS: list[tuple[tuple[Any, ...], Any, str]] = [
    ((*PATCH, "sample_rate"), 16000.5, "config.data.patch.sample_rate is 16000.5"),
    ((*PATCH, "sample_rate"), True, "config.data.patch.sample_rate is True"),
    ((*PATCH, "sample_rate"), 10**12, "PatchSpec.sample_rate is 1000000000000"),
    ((*PATCH, "sample_rate"), 10**30, "config.data.patch.sample_rate is 1" + "0" * 30),
    ((*PATCH, "n_fft"), 2**40, "PatchSpec.n_fft is 1099511627776"),
    ((*PATCH, "clip_samples"), 10**15, "PatchSpec.clip_samples is 1000000000000000"),
    ((*PATCH, "hop_length"), 10**15, "PatchSpec.hop_length"),
    ((*PATCH, "window"), "kaiser", "config.data.patch.window is 'kaiser'"),
    ((*PATCH, "window"), ["hann"], "config.data.patch.window is ['hann']"),
    ((*PATCH, "level"), None, "config.data.patch.level is None"),
    (("config", "data", "target"), "vocals", "config.data.target is 'vocals'"),
    (("config", "data", "target", 0), "../../vocals", "DataConfig.target"),
    (("config", "data", "target", 0), 3, "config.data.target[0] is 3"),
    (("config", "data", "target_to_accompaniment_db"), [1.0], "config.data.target_to_accompaniment_db is [1.0]"),
    (("config", "data"), [], "config.data is []"),
    (("config", "data", "kind"), ["DataConfig"], "config.data.kind is ['DataConfig']"),
    ((*MODEL, "blocks"), 10**6, "PatchCNNConfig.blocks is 1000000"),
    ((*MODEL, "channels"), 10**9, "PatchCNNConfig.channels is 1000000000"),
    ((*MODEL, "kernel_size"), [3], "config.model.kernel_size is [3]"),
    ((*MODEL, "kernel_size"), [3, 3.5], "config.model.kernel_size[1] is 3.5"),
    ((*MODEL, "dropout_rate"), float("nan"), "config.model.dropout_rate is nan"),
    ((*MODEL, "features"), {}, "config.model.features is {}"),
    ((*MODEL, "kind"), "Transformer", "config.model.kind is 'Transformer'"),
    (("config", "objective"), None, "config.objective is None"),
    (("config", "train", "learning_rate"), "fast", "config.train.learning_rate is 'fast'"),
    (("config",), [], "config is []"),
    (("info",), None, "info is None"),
    (("info", "step"), "four", "info.step is 'four'"),
    (("info", "uses_stems"), "none", "info.uses_stems is 'none'"),
    (("info", "data", "counts"), [1], "info.data.counts is [1]"),
    (("info", "data", "counts", "train_mixture", "kept_s"), None, "info.data.counts.train_mixture.kept_s is None"),
    (("info", "estimates"), {"class_prior": 0.5}, "info.estimates.class_prior is 0.5"),
    (("licence",), 5, "licence is 5"),
    (("kind",), "config", "kind is 'config'"),
    (("num_parameters",), "many", "num_parameters is 'many'"),
    (("scores",), [], "scores is []"),
    (("format",), 2, "has format 2"),
    (("extra",), functools.reduce(lambda inner, _: [inner], range(200), 0), "nested deeper"),
    (("info",), functools.reduce(lambda inner, _: {"x": inner}, range(40), 0), "info.data_fingerprint is missing"),
    (("format",), [1] * 1000, "has format [1, 1"),
]


@pytest.mark.parametrize(("path", "value", "named"), FIELDS, ids=lambda value: str(value)[:40])
def test_a_field_of_another_type_or_size_is_named(
    json_damage: Any, files: dict[str, bytes], document: Any, tmp_path: Path, path: tuple[Any, ...], value: Any, named: str
) -> None:
    foreign = json.dumps(json_damage.changed(document, path, value)).encode()
    refused(write(tmp_path / "model.zip", files | {"model.json": foreign}), named)


@pytest.mark.parametrize("path", [("config",), ("info",), ("format",), ("kind",), ("info", "step"), ("scores",)])
def test_a_missing_field_is_named(
    json_damage: Any, files: dict[str, bytes], document: Any, tmp_path: Path, path: tuple[str, ...]
) -> None:
    foreign = json.dumps(json_damage.removed(document, path)).encode()
    named = "has format None" if path == ("format",) else f"{'.'.join(path)} is missing"
    refused(write(tmp_path / "model.zip", files | {"model.json": foreign}), named)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"[]", "is []"),
        (b"null", "is None"),
        (b'"model"', "is 'model'"),
        (b"", "is damaged"),
        (b"{", "is damaged"),
        ("{}".encode("utf-16"), "is damaged"),
        (b"\xff\xfe{}", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b'{"format": ' + b"9" * 10_000 + b"}", "is damaged"),
        (b" " * (17 << 20) + b"{}", "17,825,794 bytes"),
    ],
    ids=["list", "null", "text", "empty", "cut", "utf-16", "not utf-8", "nested", "huge number", "huge"],
)
def test_a_description_that_is_none(files: dict[str, bytes], tmp_path: Path, content: bytes, named: str) -> None:
    refused(write(tmp_path / "model.zip", files | {"model.json": content}), "model.json", named)


def npz(arrays: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def with_header(shape: str, descr: str = "'<f4'", content: bytes = b"\0" * 64) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


BIAS = "params/output/bias"

ARRAYS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "10^15 elements": (lambda _: with_header(f"({10**15},)"), f"{BIAS} is float32 (1000000000000000,)"),
    "10^40 elements": (lambda _: with_header(f"({10**40},)"), BIAS),
    "negative shape": (lambda _: with_header("(-1,)"), f"{BIAS} is float32 (-1,)"),
    "no shape": (lambda _: with_header("None"), "damaged"),
    "a call": (lambda _: with_header("print(1)"), "damaged"),
    "nested header": (lambda _: with_header("(" * 90), "damaged"),
    "objects": (lambda _: npy(np.array([None])), f"{BIAS} is object"),
    "big-endian": (lambda _: npy(np.zeros(1, ">f4")), f"{BIAS} is >f4"),
    "float16": (lambda _: npy(np.zeros(1, np.float16)), f"{BIAS} is float16"),
    "structured": (lambda _: with_header("(1,)", "[('a', '<f4')]"), BIAS),
    "cut": (lambda good: good[:-2], "damaged"),
    "empty": (lambda _: b"", "damaged"),
    "other magic": (lambda good: b"PK" + good[2:], "damaged"),
    "version 9": (lambda good: good[:6] + b"\x09" + good[7:], "version (9, 0)"),
    "bomb": (lambda good: good + b"\0" * (1 << 17), BIAS),
}


@pytest.mark.parametrize("damage", ARRAYS)
def test_an_array_that_is_not_the_networks(files: dict[str, bytes], shapes: Any, tmp_path: Path, damage: str) -> None:
    with np.load(io.BytesIO(files["parameters.npz"])) as stored:
        arrays = {name: npy(stored[name]) for name in stored.files}
    change, named = ARRAYS[damage]
    arrays[BIAS] = change(arrays[BIAS])
    path = write(tmp_path / "model.zip", files | {"parameters.npz": npz(arrays)})
    with pytest.raises(ArchiveError) as caught:
        read_variables(path, shapes)
    for text in (str(path), "parameters.npz", named):
        assert text in str(caught.value)


def test_arrays_in_fortran_order_and_compressed_are_read(files: dict[str, bytes], shapes: Any, tmp_path: Path) -> None:
    with np.load(io.BytesIO(files["parameters.npz"])) as stored:
        arrays = {name: np.asfortranarray(stored[name]) for name in stored.files}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    path = write(tmp_path / "model.zip", files | {"parameters.npz": file.getvalue()}, zipfile.ZIP_LZMA)
    expected, found = read_variables(GOOD, shapes), read_variables(path, shapes)
    np.testing.assert_array_equal(found["params"]["conv_0"]["kernel"], expected["params"]["conv_0"]["kernel"])


def encrypted(path: Path) -> None:
    """Set the flag of encryption in all headers."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.find(signature)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(signature, place + 1)
    path.write_bytes(content)


def compressed_by(method: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            place = content.find(signature)
            while place >= 0:
                content[place + offset : place + offset + 2] = method.to_bytes(2, "little")
                place = content.find(signature, place + 1)
        path.write_bytes(content)

    return damage


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("model.json", b"{}")


def bomb(path: Path) -> None:
    """Parameters of 1 GB, which take 1 MB."""
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in ("model.json", "README.md")}
    del packed
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        with archive.open("parameters.npz", "w") as file:
            for _ in range(256):
                file.write(bytes(1 << 20))


def as_folder(path: Path) -> None:
    path.unlink()
    (path / "model.json").mkdir(parents=True)


ZIPS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "encrypted": (encrypted, "encrypted"),
    "implode": (compressed_by(6), "damaged"),
    "unknown compression": (compressed_by(77), "damaged"),
    "announced as bzip2": (compressed_by(12), ""),
    "announced as lzma": (compressed_by(14), "damaged"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-30]), "damaged"),
    "cut to a half": (lambda path: path.write_bytes(path.read_bytes()[:2000]), "damaged"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "text": (lambda path: path.write_text("model"), "damaged"),
    "an empty zip": (lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)), "no model.json"),
    "twice": (twice, "model.json is in it 2 times"),
    "bomb": (bomb, "268,435,456 bytes"),
    "a file in a folder's place": (as_folder, "neither a run directory"),
}


@pytest.mark.parametrize("damage", ZIPS)
def test_zip_files_that_are_damaged_or_hostile(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "model.zip"
    shutil.copy(GOOD, path)
    change, named = ZIPS[damage]
    change(path)
    with pytest.raises((ArchiveError, CheckpointError)) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("name", ["model.json", "parameters.npz"])
def test_a_folder_or_a_missing_file_in_an_unpacked_archive(tmp_path: Path, name: str) -> None:
    shutil.unpack_archive(GOOD, tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises((ArchiveError, CheckpointError), match=str(tmp_path)):
        load_model(tmp_path / "model")
    (tmp_path / "model" / name).mkdir()
    with pytest.raises((ArchiveError, CheckpointError), match=str(tmp_path)):
        load_model(tmp_path / "model")


def test_members_outside_the_archive_are_never_written(files: dict[str, bytes], tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    path = write(inner / "model.zip", files | {"../escaped": b"x", "/absolute": b"x", "a/../../b": b"x"})
    load_model(path)
    to_text(describe(str(path)))
    assert [each.name for each in tmp_path.rglob("*")] == ["inner", "model.zip"]


def test_every_value_in_turn_is_refused_or_read(json_damage: Any, files: dict[str, bytes], document: Any, tmp_path: Path) -> None:
    """A sample of all damage by `tests.conftest.JsonDamage`; the seed is printed."""
    seed = random.randrange(2**32)
    print("seed", seed)
    every = list(json_damage.variants(document))
    chosen = random.Random(seed).sample(every, 400)
    folder = tmp_path / "model"
    folder.mkdir()
    outcomes = {"read": 0, "refused": 0}
    for path, value, foreign in chosen:
        (folder / "model.json").write_text(json.dumps(foreign))
        begin = time.process_time()
        try:
            described = read_description(folder)
            to_text({**described, "name": "x"})
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            message = str(error)
        else:
            message = str(folder)
        assert str(folder) in message, (path, value)
        assert time.process_time() - begin < 2, (path, value)
    assert min(outcomes.values()) > 20


def test_a_config_with_another_number_is_refused_or_its_network_has_shapes(json_damage: Any, document: Any) -> None:
    every = [(path, value) for path, value in itertools.product(numbers(document["config"]), json_damage.values)]
    chosen = random.Random(0).sample(every, 60)
    for path, value in chosen:
        try:
            config = from_json(json_damage.changed(document["config"], path, value))
        except UserError:
            continue
        begin = time.process_time()
        variable_shapes(config)
        assert time.process_time() - begin < 5, (path, value)


def numbers(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(document, dict):
        return [found for key, value in document.items() for found in numbers(value, (*path, key))]
    return [path] if isinstance(document, (int, float)) else []


def test_the_commands_say_one_sentence(
    json_damage: Any, files: dict[str, bytes], document: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = json.dumps(json_damage.changed(document, (*MODEL, "blocks"), 10**6)).encode()
    path = write(tmp_path / "model.zip", files | {"model.json": foreign})
    for command in (["info", str(path)], ["separate", str(path), str(tmp_path), "-o", str(tmp_path / "out")]):
        assert main(command) == 1
        printed = capsys.readouterr()
        assert "PatchCNNConfig.blocks is 1000000" in printed.err
        assert len(printed.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_texts_do_not_control_the_terminal(json_damage: Any, document: Any) -> None:
    told = to_text({**json_damage.changed(document, ("description",), "a\x1b[2Jb\ud800c"), "name": "model.zip"})
    assert "a?[2Jb?c" in told


CHECKPOINT = "checkpoints/4/_CHECKPOINT_METADATA"

RECORDS: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "no record": (("custom_metadata",), None, "config is missing"),
    "a list": (("custom_metadata",), [], ""),
    "no config": (("custom_metadata", "config"), None, "config is None"),
    "a rate": (("custom_metadata", "config", "data", "patch", "sample_rate"), 0.5, "config.data.patch.sample_rate is 0.5"),
    "info": (("custom_metadata", "info"), [], "info is []"),
    "step": (("custom_metadata", "info", "step"), None, "info.step is None"),
    "handlers": (("item_handlers",), 3, ""),
}


@pytest.mark.parametrize("damage", RECORDS)
def test_the_record_of_a_checkpoint(json_damage: Any, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(DATA / "earlier_run", run)
    path, value, named = RECORDS[damage]
    (run / CHECKPOINT).write_text(json.dumps(json_damage.changed(json.loads((run / CHECKPOINT).read_text()), path, value)))
    with pytest.raises(CheckpointError) as caught:
        load_model(run)
    assert str(run) in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "null", "{", '{"score": "high"}', '{"loss": 1}'])
def test_the_score_of_a_checkpoint(tmp_path: Path, content: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(DATA / "earlier_run", run)
    (run / "checkpoints/4/metrics/metrics").write_text(content)
    with pytest.raises(CheckpointError, match=str(run)):
        load_model(run)
