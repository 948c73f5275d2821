"""Preparation: the files that it makes, the sources that it refuses, and what is left when it is killed."""

import dataclasses
import fcntl
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.activity import chunk_energies, gated_level
from data_pipeline.config import STEMS, DataConfig, PatchSpec, config_key, fingerprint
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import AudioError, DataError, WriteError
from data_pipeline.prepare import prepare
from data_pipeline.tfrecord import RecordWriter, encode_example, read_record
from data_pipeline.tracks import Folders, Musdb18HQ, find_tracks

RATE = 8000
CONFIG = DataConfig(
    patch=PatchSpec(sample_rate=RATE, clip_samples=4000, n_fft=256, win_length=256, hop_length=128), validation_share=0.25
)


def make_corpus(root, num_songs=4, seconds=3.0, rate=RATE):
    for song in range(num_songs):
        folder = root / "train" / f"Song {song}"
        folder.mkdir(parents=True)
        generator = np.random.default_rng([7, song])
        stems = {name: generator.integers(-3000, 3000, (int(seconds * rate), 2)).astype(np.int16) for name in STEMS}
        for name, stem in (stems | {"mixture": sum(stems.values())}).items():
            soundfile.write(folder / f"{name}.wav", stem, rate, subtype="PCM_16")
    return Musdb18HQ(root)


def contents(directory):
    """Read the bytes of all records, and jaxpu.json."""
    info = json.loads((directory / "jaxpu.json").read_text())
    return {path.name: path.read_bytes() for path in directory.glob("*.tfrecord-*")}, info


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("prepared")
    source = make_corpus(root / "corpus", num_songs=5)  # 2 of them for validation
    prepare(source, CONFIG, root / "data", num_workers=1, progress=False)
    return source, root / "data"


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(prepared, tmp_path, capfd):
    source, straight = prepared
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=2)
    assert contents(tmp_path / "data") == contents(straight)
    assert not (tmp_path / "data" / "unfinished").exists()
    printed = capfd.readouterr().out
    assert "Preparing 5 tracks: at most" in printed
    assert "train mixture: kept 18 of 18 clips (100.0%" in printed
    assert {track.name for track in dataset.tracks("train") + dataset.tracks("validation")} == {f"Song {n}" for n in range(5)}


def test_the_expected_size_is_close_and_never_less_than_the_real_one(prepared, tmp_path, capfd):
    source, _ = prepared
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=1)
    expected_mb = float(capfd.readouterr().out.split("at most ")[1].split(" MB")[0])
    assert dataset.info["bytes"] / 1e6 <= expected_mb < 1.02 * dataset.info["bytes"] / 1e6


def test_info_and_index_agree_with_the_records(prepared):
    source, directory = prepared
    dataset = PatchDataset.open(directory)
    assert dataset.config == CONFIG
    rate, tracks = (
        CONFIG.patch.sample_rate,
        find_tracks(source, CONFIG.target, validation_share=CONFIG.validation_share, seed=CONFIG.seed),
    )
    mixtures = [track.mixture.blocks(rate, CONFIG.patch.stereo) for track in tracks if track.split == "train"]
    levels_db = [20 * np.log10(gated_level(chunk_energies(blocks, rate))) for blocks in mixtures]
    assert (dataset.has_stems, dataset.uses_stems) == (True, None)
    assert dataset.info["counts"]["train_mixture"] == {
        "tracks": 3, "clips": 18, "stored": 18, "kept": 18, "kept_share": 1.0, "kept_s": 9.0,
        "level_db": pytest.approx(np.mean(levels_db)),
    }  # fmt: skip
    index = dataset.index("train", "accompaniment")
    for shard, offset, track, start in zip(index.shard, index.offset, index.track, index.start, strict=True):
        payload = read_record(dataset.shard_path("train", "accompaniment", shard), offset)
        # The features come in alphabetical order; behind the STFT there are the 16 bytes of `track`.
        (level,) = np.frombuffer(payload[payload.index(b"level") + 11 :][:4], np.float32)
        stft = np.frombuffer(payload[:-16][-2 * np.prod(CONFIG.patch.patch_shape) :], np.float16)
        assert payload == encode_example(track=int(track), start=int(start), level=float(level), stft=stft)
        assert 0.01 < level < 0.1
        assert np.isfinite(stft).all()


def test_the_fingerprint_of_settings_never_changes():
    # If it did, datasets of earlier versions would be prepared again.
    other = dataclasses.replace(CONFIG, target=("bass", "other"), target_to_accompaniment_db=(-5.0, 10.0))
    assert fingerprint(config_key(CONFIG), config_key(other)) == "bfd82fb4ddd86ead"


def test_data_of_other_settings_are_replaced_with_a_word(prepared, tmp_path, capfd):
    source, directory = prepared
    data = tmp_path / "data"
    shutil.copytree(directory, data)
    other = dataclasses.replace(CONFIG, patch=dataclasses.replace(CONFIG.patch, window="blackman"))
    assert prepare(source, other, data, num_workers=1).config == other
    assert (
        f"{data}: holds data of other recordings or settings, to be replaced. -o DIR would keep them." in capfd.readouterr().out
    )


def test_same_sources_and_settings_are_not_prepared_twice(prepared, capfd):
    source, directory = prepared
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    prepare(source, CONFIG, directory, num_workers=1)
    assert "already prepared" in capfd.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


def test_changed_settings_or_sources_never_reuse_stale_data(tmp_path):
    source = make_corpus(tmp_path / "corpus", num_songs=3)
    first = prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    drums = DataConfig(patch=CONFIG.patch, target=("drums",), validation_share=0.25)
    with pytest.raises(DataError, match=r"target is \('vocals',\) but \('drums',\) is asked for"):
        first.check(drums)
    second = prepare(source, drums, tmp_path / "data", num_workers=1, progress=False)
    second.check(drums)
    records = contents(tmp_path / "data")[0]
    assert records == contents(prepare(source, drums, tmp_path / "fresh", num_workers=1, progress=False).directory)[0]
    make_corpus(tmp_path / "other", num_songs=4)
    (tmp_path / "other" / "train" / "Song 3").rename(tmp_path / "corpus" / "train" / "Song 9")
    third = prepare(source, drums, tmp_path / "data", num_workers=1, progress=False)
    assert len({first.fingerprint, second.fingerprint, third.fingerprint}) == 3
    # The shards are now as many as the tracks: none of the older dataset is left.
    assert len(list((tmp_path / "data").glob("*.tfrecord-*"))) == 8


def test_an_older_dataset_stays_usable_until_the_new_one_is_complete(tmp_path):
    source = make_corpus(tmp_path / "corpus", num_songs=3)
    prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    (tmp_path / "corpus" / "train" / "Song 1" / "drums.wav").write_bytes(b"no audio")
    with pytest.raises(DataError, match=r"1 of 3 tracks cannot be used(.|\n)*drums.wav(.|\n)*--skip-bad"):
        prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert PatchDataset.open(tmp_path / "data").num_clips("train", "mixture") == 12


def test_bad_recordings_are_all_named_or_skipped_and_listed(tmp_path, capfd):
    source = make_corpus(tmp_path / "corpus", num_songs=8, seconds=1.5)
    songs = tmp_path / "corpus" / "train"
    (songs / "Song 0" / "bass.wav").unlink()
    whole = (songs / "Song 1" / "other.wav").read_bytes()
    (songs / "Song 1" / "other.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(songs / "Song 2" / "mixture.wav", np.where(np.arange(24_000) == 9, np.nan, 0.1).reshape(-1, 2), RATE, "FLOAT")
    for name in ("mixture", *STEMS):
        soundfile.write(songs / "Song 3" / f"{name}.wav", np.zeros((12_000, 2)), RATE)
        soundfile.write(songs / "Song 4" / f"{name}.wav", np.full((100, 2), 0.1), RATE)
    soundfile.write(songs / "Song 5" / "drums.wav", np.full((12_000, 2), 0.1), 2 * RATE)
    named = ["Song 0/bass.wav", "Song 1/other.wav", "Song 2/mixture.wav", "Song 3", "Song 4", "Song 5/drums.wav"]
    with pytest.raises(DataError, match="6 of 8 tracks cannot be used") as caught:
        prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    for name in named:
        assert name in str(caught.value)
    with pytest.raises(DataError, match="has not finished"):
        PatchDataset.open(tmp_path / "data")
    capfd.readouterr()
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=1, skip_bad=True)
    printed = capfd.readouterr().out
    assert "2 of 7 tracks are finished already" in printed
    assert "Skipped 6 tracks:" in printed
    for name in named:
        assert name in printed
    assert printed.count("Skipped 6 tracks:") == 1
    used = {track.name for track in dataset.tracks("train") + dataset.tracks("validation")}
    # Song 6 alone trains, and none is left of those that were drawn for validation.
    assert used == {"Song 6 [to 0.50 s]", "Song 6 [from 1.00 s]", "Song 7"}
    with pytest.raises(DataError, match=r"was prepared without(.|\n)*Song 0/bass.wav"):
        prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)


def test_settings_that_need_stems_are_refused_for_two_folders(tmp_path):
    for role, level in (("with", 1000), ("without", 2000)):
        (tmp_path / role).mkdir()
        for number in range(2):
            recording = np.random.default_rng(number).integers(-level, level, 20_000 + 8000 * number).astype(np.int16)
            soundfile.write(tmp_path / role / f"{number}.flac", recording, RATE)
    source = Folders(tmp_path / "with", tmp_path / "without")
    for setting in ({"activity_on": "target"}, {"target_to_accompaniment_db": (-5.0, 10.0)}):
        with pytest.raises(DataError, match=rf"{next(iter(setting))} = .* needs stems"):
            prepare(source, DataConfig(patch=CONFIG.patch, **setting), tmp_path / "data")
    assert not (tmp_path / "data").exists()
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert not dataset.has_stems
    assert sorted(dataset.info["counts"]) == [
        "train_accompaniment",
        "train_mixture",
        "validation_accompaniment",
        "validation_mixture",
    ]
    assert sum(dataset.num_clips(split, "mixture") for split in ("train", "validation")) == 5 + 7


def test_use_of_stems_is_marked(tmp_path):
    source = make_corpus(tmp_path / "corpus", num_songs=2)
    config = DataConfig(patch=CONFIG.patch, activity_on="target", target_to_accompaniment_db=(-5.0, 10.0))
    dataset = prepare(source, config, tmp_path / "data", num_workers=1, progress=False)
    assert dataset.uses_stems == "activity_on = target and target_to_accompaniment_db = (-5.0, 10.0)"
    assert PatchDataset.open(tmp_path / "data").config == config


def test_nothing_kept_is_an_error(tmp_path):
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    for path, level in ((tmp_path / "with" / "a.wav", 3), (tmp_path / "without" / "b.wav", 3000)):
        soundfile.write(path, np.random.default_rng(0).integers(-level, level, 20_000).astype(np.int16), RATE)
    with pytest.raises(
        DataError, match=r"none of the 5 clips of the training split's mixture was kept \(activity_on = mixture\)"
    ):
        prepare(Folders(tmp_path / "with", tmp_path / "without"), CONFIG, tmp_path / "data", num_workers=1, progress=False)


def test_no_room_is_refused_before_anything_is_written(tmp_path):
    # A recording of 1 GB, a hole that takes no room on the disk, whose STFT of hop 1 would take petabytes.
    for folder in ("with", "without"):
        (tmp_path / folder).mkdir()
        with (tmp_path / folder / "long.wav").open("wb") as file:
            sizes = (b"RIFF", 36 + (1 << 30), b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data", 1 << 30)
            file.write(struct.pack("<4sI4s4sIHHIIHH4sI", *sizes))
            file.truncate(44 + (1 << 30))
    patch = PatchSpec(sample_rate=RATE, clip_samples=1 << 20, n_fft=1 << 20, win_length=1 << 20, hop_length=1)
    with pytest.raises(DataError, match=rf"{tmp_path}/data: has .* free, but preparation needs up to \d{{7,}}\.\d\d GB"):
        prepare(Folders(tmp_path / "with", tmp_path / "without"), DataConfig(patch=patch), tmp_path / "data", progress=False)
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file() and path.name != "lock"]


@pytest.mark.parametrize("max_bytes", [60_000, 97_500])  # Less than the decoded signals, less than the records.
def test_a_disk_that_refuses_data_is_named_and_nothing_half_made_is_left(prepared, tmp_path, max_bytes):
    source, straight = prepared
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        with pytest.raises(WriteError, match=r"cannot be written \(File too large\)\. The disk has \d+ MB free") as caught:
            prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "data" / "unfinished" / "tracks") in str(caught.value)
    assert not list((tmp_path / "data" / "unfinished" / "tracks").iterdir())
    with pytest.raises(DataError, match=r"has not finished.*`jaxpu prepare`"):
        PatchDataset.open(tmp_path / "data")
    prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert contents(tmp_path / "data") == contents(straight)


def test_two_preparations_do_not_share_a_folder(prepared, tmp_path):
    source, _ = prepared
    (tmp_path / "data" / "unfinished").mkdir(parents=True)
    with (tmp_path / "data" / "unfinished" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is preparing data there"):
            prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)


def test_the_work_of_another_preparation_is_not_removed(prepared, tmp_path):
    """The folder has data of these recordings; another process prepares others there."""
    source, straight = prepared
    shutil.copytree(straight, tmp_path / "data")
    unfinished = tmp_path / "data" / "unfinished"
    unfinished.mkdir()
    with (unfinished / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
        assert unfinished.is_dir()
    prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert not unfinished.exists(), "left over"


def test_bad_recordings_are_named_when_a_finished_dataset_is_published(tmp_path, monkeypatch):
    source = make_corpus(tmp_path / "corpus", num_songs=5, seconds=1.5)
    (tmp_path / "corpus" / "train" / "Song 0" / "bass.wav").unlink()
    with monkeypatch.context() as patched:
        patched.setattr("data_pipeline.prepare.publish", lambda _: 1 / 0)  # Interrupted between plan and publication.
        with pytest.raises(ZeroDivisionError):
            prepare(source, CONFIG, tmp_path / "data", num_workers=1, skip_bad=True, progress=False)
    with pytest.raises(DataError, match=r"was prepared without(.|\n)*Song 0/bass.wav"):
        prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    dataset = prepare(source, CONFIG, tmp_path / "data", num_workers=1, skip_bad=True, progress=False)
    assert list(dataset.info["skipped"]) == ["Song 0"]


def test_data_do_not_lie_among_the_recordings(tmp_path):
    source = make_corpus(tmp_path / "corpus")
    with pytest.raises(DataError, match=r"corpus: .*among the recordings.*-o"):
        prepare(source, CONFIG, tmp_path / "corpus", num_workers=1, progress=False)


def test_an_empty_or_wrong_source_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AudioError, match=rf"{tmp_path}/empty"):
        prepare(Musdb18HQ(tmp_path / "empty"), CONFIG, tmp_path / "data")


def children(pid):
    """Find the descendants of a process in /proc."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(entry.name)] = int(fields[1])
    found = {child for child, parent in parents.items() if parent == pid}
    return found | {grandchild for child in found for grandchild in children(child)}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_killed_while_workers_write_it_leaves_no_process_and_resumes(tmp_path):
    source = make_corpus(tmp_path / "corpus", num_songs=8, seconds=30.0)
    straight = prepare(source, CONFIG, tmp_path / "straight", num_workers=1, progress=False)
    script = f"""
from pathlib import Path
from data_pipeline.prepare import prepare
from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.tracks import Musdb18HQ
if __name__ == "__main__":
    prepare(Musdb18HQ(Path({str(tmp_path / "corpus")!r})), {CONFIG!r}, {str(tmp_path / "data")!r}, num_workers=2)
"""
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    tracks = tmp_path / "data" / "unfinished" / "tracks"
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            # A folder with a dot in its name is not finished: it is renamed after its result is written.
            while not (finished := [path for path in tracks.glob("*/result.json") if "." not in path.parent.name]):
                assert process.poll() is None
                time.sleep(0.002)
            descendants = children(process.pid)
            assert len(descendants) >= 2
        finally:
            process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in descendants):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.02)
    assert len(list(tracks.iterdir())) < 8
    with pytest.raises(DataError, match="has not finished"):
        PatchDataset.open(tmp_path / "data")
    kept = {path.parent.name: path.stat().st_ino for path in finished}
    (tracks / "0123456789abcdef.4242").mkdir()  # As left by a worker that was killed long ago.
    resumed = prepare(source, CONFIG, tmp_path / "data", num_workers=1, progress=False)
    assert kept
    assert resumed.fingerprint == straight.fingerprint
    assert contents(tmp_path / "data") == contents(tmp_path / "straight")
    assert not (tmp_path / "data" / "unfinished").exists()


@pytest.mark.slow
def test_killed_at_any_rename_it_leaves_a_finished_dataset_or_resumes(tmp_path):
    """A real kill -9 right before and right after every rename of `prepare`, over an older dataset with other settings."""
    make_corpus(tmp_path / "corpus", num_songs=2, seconds=1.0)
    script = """
import json, os, shutil, signal, sys
from pathlib import Path
import librosa, tensorflow_datasets
from data_pipeline.dataset import PatchDataset
from data_pipeline.prepare import prepare
from data_pipeline.errors import DataError
from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.tracks import Musdb18HQ

root = Path(sys.argv[1])
source = Musdb18HQ(root / "corpus")
patch = PatchSpec(sample_rate=8000, clip_samples=4000, n_fft=256, win_length=256, hop_length=128)
old, new = (DataConfig(patch=patch, target=(stem,), validation_share=0.25) for stem in ("vocals", "bass"))

def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".npz" and path.is_file()}

def run(config, directory):
    return prepare(source, config, directory, num_workers=1, progress=False)

run(old, root / "old")
run(new, root / "straight")
rename = Path.replace
kill_at = 0
while True:
    directory = root / f"data{kill_at}"
    shutil.copytree(root / "old", directory)
    child = os.fork()
    if not child:
        calls = 0
        def counted(path, target):
            global calls
            if 2 * calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(path, target)
            if 2 * calls + 1 == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
        Path.replace = counted
        run(new, directory)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    try:
        state = PatchDataset.open(directory).config.target[0]
    except DataError as error:
        assert "has not finished" in str(error), error
        state = "unfinished"
        assert not (directory / "dataset_info.json").exists() or all(
            (directory / name).exists() for name in contents(root / "straight") if name != "jaxpu.json"
        )
    run(new, directory)
    assert contents(directory) == contents(root / "straight")
    assert not (directory / "unfinished").exists()
    print(kill_at, state)
    shutil.rmtree(directory)
    kill_at += 1
"""
    (tmp_path / "script.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, tmp_path / "script.py", tmp_path], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    states = [line.split()[1] for line in result.stdout.splitlines()]
    # 2 tracks, the plan, 4 shards, 4 files of metadata; each before and after.
    assert len(states) == 2 * (2 + 1 + 4 + 4)
    assert states == sorted(states, key=["vocals", "unfinished", "bass"].index)
    assert set(states) == {"vocals", "unfinished", "bass"}


def test_record_framing_and_damage(tmp_path):
    path = tmp_path / "x.tfrecord"
    with RecordWriter(path) as writer:
        offsets = [writer.write(payload) for payload in (b"", b"abc", bytes(1000))]
    assert offsets == [0, 16, 35]
    assert [read_record(path, offset) for offset in offsets] == [b"", b"abc", bytes(1000)]
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert read_record(path, 16) == b"abc"
    for offset in (35, 17, 10**6):
        with pytest.raises(DataError, match=rf"x.tfrecord: the record at byte {offset} is damaged"):
            read_record(path, offset)
    with pytest.raises(DataError, match=r"absent.tfrecord: cannot be read"):
        read_record(tmp_path / "absent.tfrecord", 0)
