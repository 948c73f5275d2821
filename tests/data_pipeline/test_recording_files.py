"""The search for recordings, in folders as people have them: files of ffmpeg, links, hidden folders, and what lies beside."""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import AudioError
from data_pipeline.prepare import prepare
from data_pipeline.recording_files import FoundRecordings, find_recordings
from data_pipeline.tracks import Folders, find_tracks

# Suffixes, with options where ffmpeg needs some.
FORMATS = [
    *("mkv", "mp2", "m4b", "caf", "tta", "wv", "aifc", "au", "w64", "mka", "mov", "avi", "ac3", "eac3", "voc", "wma", "m4a"),
    *("mp4", "webm", "aac", "opus", "mpg", "spx", "wav", "flac", "ogg", "mp3"),
    *("rf64 -f wav -rf64 always", "3gp -c:a aac", "ra -f rm -c:a ac3"),
]


def sound(*outputs: object) -> None:
    """Write a tone with ffmpeg to files, each with its options before it."""
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=duration=0.2:sample_rate=48000", *map(str, outputs)]
    subprocess.run(command, check=True)


def names(found: FoundRecordings) -> list[str]:
    return [path.relative_to(found.folder).as_posix() for path in found.paths]


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wav") / "song.wav"
    sound(path)
    return path


def test_every_format_that_ffmpeg_writes_is_found_with_and_without_its_suffix(tmp_path: Path) -> None:
    outputs: list[object] = []
    for number, line in enumerate(FORMATS):
        suffix, *options = line.split()
        outputs += [*options, tmp_path / f"{number}.{suffix}"]
    sound(*outputs)
    wanted = len(FORMATS)
    assert len(find_recordings(tmp_path).paths) == wanted
    for path in list(tmp_path.iterdir()):
        shutil.copy(path, path.with_suffix(""))
    found = find_recordings(tmp_path)
    # Of an MPEG program stream ffprobe is not sure enough.
    missing = {str(number) for number in range(wanted)} - set(names(found))
    assert missing <= {str(FORMATS.index("mpg"))}


def test_what_is_left_out_is_counted_by_its_kind(tmp_path: Path, wav: Path) -> None:
    folder = tmp_path / "songs"
    shutil.copytree(wav.parent, folder / "deep" / "er")
    for name in ("...Baby One More Time.wav", ".hidden.wav", "LOUD.WAV"):
        shutil.copy(wav, folder / name)
    for name in ("a.txt", "b.txt", "._song.wav", ".partial-vocals.wav", ".DS_Store", "cover.jpg", ".git/song.wav", "list.m3u8"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("deep/er/song.wav\n")
    (folder / "noise.bin").write_bytes(np.random.default_rng(0).bytes(30_000))
    silent = ["-f", "lavfi", "-i", "testsrc=duration=0.2:size=64x64"]
    subprocess.run(["ffmpeg", "-v", "error", *silent, folder / "silent.mkv"], check=True)
    os.mkfifo(folder / "pipe.wav")
    found = find_recordings(folder)
    assert names(found) == ["...Baby One More Time.wav", ".hidden.wav", "LOUD.WAV", "deep/er/song.wav"]
    assert found.left_out == {
        ".txt": 2,
        "._* file of macOS": 1,
        "incomplete file": 1,
        "file without suffix": 1,
        ".jpg": 1,
        ".m3u8": 1,
        ".bin": 1,
        ".mkv without sound": 1,
        "hidden folder": 1,
        "special file": 1,
    }
    line = found.summary()
    assert line.startswith(f"{folder}: 4 recordings; left out 1 ")
    for part in ("1 hidden folder (.git)", "2 .txt", "1 special file (pipe.wav)", "1 incomplete file (.partial-vocals.wav)"):
        assert part in line


def test_links_are_followed_and_nothing_is_found_twice(tmp_path: Path, wav: Path) -> None:
    folder, elsewhere = tmp_path / "songs", tmp_path / "elsewhere"
    shutil.copytree(wav.parent, folder / "real")
    shutil.copytree(wav.parent, elsewhere / "album")
    (folder / "a link").symlink_to("real")  # Comes first by its name, but the folder keeps its own.
    (folder / "elsewhere").symlink_to("../elsewhere/album")
    (folder / "elsewhere again").symlink_to("../elsewhere/album")
    (elsewhere / "album" / "back").symlink_to(folder)
    (folder / "up").symlink_to("..")
    (folder / "itself").symlink_to("itself")
    (folder / "a.wav").symlink_to("real/song.wav")
    shutil.copy(wav, tmp_path / "far.wav")
    (folder / "far.wav").symlink_to("../far.wav")
    (folder / "far again.wav").symlink_to("../far.wav")
    (folder / "unmounted").symlink_to("/nowhere/music")
    (folder / "gone.wav").symlink_to("/nowhere/gone.wav")
    found = find_recordings(folder)
    # A song that is gone stays in the list: reading it names it.
    assert names(found) == ["elsewhere/song.wav", "far again.wav", "gone.wav", "real/song.wav"]
    assert found.left_out == {
        "link to a folder found already": 3,
        "link to a folder above": 1,
        "link to a file found already": 2,
        "broken link": 2,
    }


def test_a_link_from_one_folder_into_the_other_is_refused(tmp_path: Path, wav: Path) -> None:
    for name in ("with", "without"):
        shutil.copytree(wav.parent, tmp_path / name)
    (tmp_path / "with" / "more").symlink_to("../without")
    with pytest.raises(AudioError, match=r"with/more/song\.wav and .*without/song\.wav are the same file"):
        find_tracks(Folders(tmp_path / "with", tmp_path / "without"), ("vocals",), validation_share=0.5, seed=0)


def test_a_folder_that_cannot_be_read_is_an_error(wav: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(wav, folder / "song.wav")
        (folder / "locked").mkdir()
        shutil.copy(wav, folder / "locked" / "song.wav")
        folder.chmod(0o755)
        (folder / "locked").chmod(0)
        is_root = os.geteuid() == 0
        try:
            if is_root:  # Who may read everything.
                os.seteuid(65_534)
            found = find_recordings(folder)
        finally:
            if is_root:
                os.seteuid(0)
            (folder / "locked").chmod(stat.S_IRWXU)
        assert names(found) == ["song.wav"]
        with pytest.raises(AudioError, match=r"locked: cannot be read \(Permission denied\)"):
            found.require()


def test_files_of_unknown_kind_are_asked_about_only_so_often(tmp_path: Path, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        shutil.copy(wav, tmp_path / f"{number}.odd")
        shutil.copy(wav, tmp_path / f"{number}.mkv")
    monkeypatch.setattr("data_pipeline.recording_files._ASKED_AT_MOST", 2)
    found = find_recordings(tmp_path)
    # What may be a video stays: reading it would tell.
    assert names(found) == ["0.mkv", "0.odd", "1.mkv", "2.mkv"]
    assert found.left_out == {"file of unknown kind": 2}
    monkeypatch.setenv("PATH", str(tmp_path))  # Without ffprobe.
    assert names(find_recordings(tmp_path)) == ["0.mkv", "1.mkv", "2.mkv"]


def test_prepare_says_what_it_leaves_out_and_takes_any_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng, latin1 = np.random.default_rng(0), os.fsdecode(b"caf\xe9")
    for name in ("with/1.w64", f"with/{latin1}.wav", "without/1.caf", "without/linked/2.aifc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {".caf": "CAF", ".aifc": "AIFF", ".w64": "W64", ".wav": "WAV"}[Path(name).suffix]
        soundfile.write(os.fsencode(tmp_path / name), rng.normal(0, 0.1, 24_000), 8000, format=kind)
    (tmp_path / "without" / "linked").rename(tmp_path / "elsewhere")
    (tmp_path / "without" / "linked").symlink_to("../elsewhere")
    (tmp_path / "with" / "notes.txt").touch()
    (tmp_path / "with" / f"{latin1} too.wav").write_text("no sound")
    patch = PatchSpec(sample_rate=8000, clip_samples=4000, n_fft=256, win_length=256, hop_length=128)
    source = Folders(tmp_path / "with", tmp_path / "without")
    dataset = prepare(source, DataConfig(patch=patch), tmp_path / "data", num_workers=1, skip_bad=True)
    printed = capsys.readouterr().out
    lines = printed.encode("utf-8", "strict").decode().splitlines()
    assert lines[:2] == [f"{tmp_path / 'with'}: 3 recordings; left out 1 .txt", f"{tmp_path / 'without'}: 2 recordings"]
    assert r"caf\udce9 too.wav: " in printed
    names = {track["name"] for track in PatchDataset.open(tmp_path / "data").info["tracks"]}
    assert names == {"with_target/1.w64", f"with_target/{latin1}.wav", "without_target/1.caf", "without_target/linked/2.aifc"}
    assert dataset.info["skipped"].keys() == {f"with_target/{latin1} too.wav"}
