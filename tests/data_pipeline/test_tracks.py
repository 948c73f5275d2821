"""Sources: a real .stem.mp4, wav folders and two folders of audio; splits, exact sums, bad sources, and the download."""

import functools
import http.server
import io
import os
import pickle
import re
import shutil
import ssl
import subprocess
import threading
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

import musdb
import numpy as np
import pytest
import stempeg
import yaml

from data_pipeline.audio import Writer, read_blocks, resampled_length
from data_pipeline.config import STEMS
from data_pipeline.errors import AudioError, UserError
from data_pipeline.tracks import Folders, Musdb18, Musdb18HQ, Recording, Stems, detect_source, download_musdb7s, find_tracks

STEM_FILE = Path(stempeg.example_stem_path())
VALIDATION_NAME = "Actions - One Minute Smile"
ARCHIVE_URL = yaml.safe_load((Path(musdb.__file__).parent / "configs" / "mus.yaml").read_text())["sample-url"]


def write(path: Path, signal: np.ndarray, sample_rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Writer(path, sample_rate, len(signal)) as writer:
        writer.write(signal)
    return path


def song(folder: Path, num_samples: int = 4000, channels: int = 2, sample_rate: int = 8000) -> dict[str, np.ndarray]:
    """Write a track in the layout of MUSDB18-HQ; the mixture is the sum of the stems plus some noise."""
    rng = np.random.default_rng([*folder.name.encode()])
    signals = {stem: 0.1 * rng.standard_normal((channels, num_samples)).astype(np.float32) for stem in STEMS}
    signals["mixture"] = sum(signals.values()) + 0.001 * rng.standard_normal((channels, num_samples)).astype(np.float32)
    for stem, signal in signals.items():
        write(folder / f"{stem}.wav", signal, sample_rate)
    return signals


def musdb18(root: Path, train: list[str], test: list[str]) -> Path:
    for split, names in (("train", train), ("test", test)):
        (root / split).mkdir(parents=True)
        for name in names:
            (root / split / f"{name}.stem.mp4").symlink_to(STEM_FILE)
    return root


def hq(root: Path, train: list[str], test: list[str] = ()) -> Path:
    """Make folders with empty files, which is enough for listing."""
    for split, names in (("train", train), ("test", test)):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for stem in ("mixture", *STEMS):
                (root / split / name / f"{stem}.wav").touch()
    return root


def read(recording: Recording, sample_rate: int | None = None, stereo: bool = True, **options) -> np.ndarray:
    return np.concatenate(list(recording.blocks(sample_rate or recording.sample_rate, stereo, **options)), axis=1)


def tracks_of(source, target=("vocals",), validation_share=0.14, seed=0):
    return find_tracks(source, target, validation_share=validation_share, seed=seed)


def names(tracks, split):
    return [track.name for track in tracks if track.split == split]


# --- MUSDB18 ---


@pytest.fixture(scope="module")
def stem_root(tmp_path_factory) -> Path:
    return musdb18(tmp_path_factory.mktemp("musdb18"), [STEM_FILE.name.removesuffix(".stem.mp4")], ["Other - Song"])


def test_a_real_stem_file_decodes_as_musdb_decodes_it(stem_root):
    source = detect_source(stem_root)
    assert source == Musdb18(stem_root)
    tracks = tracks_of(source)
    assert [(track.name, track.split) for track in tracks] == [
        ("The Easton Ellises - Falcon 69", "train"),
        ("Other - Song", "test"),
    ]
    reference = musdb.DB(root=str(stem_root), subsets="train")[0]
    track = tracks[0]
    info = track.check()
    assert (info.sample_rate, info.num_channels, info.num_samples) == (44_100, 2, len(reference.audio))
    # musdb decodes to 16 bits, clipped at full scale; this reads the decoder's floats.
    np.testing.assert_allclose(np.clip(read(track.mixture), -1, 1), reference.audio.T, atol=1.01 / (1 << 15))
    for stem in STEMS:
        np.testing.assert_allclose(np.clip(read(track.stem(stem)), -1, 1), reference.sources[stem].audio.T, atol=1.01 / (1 << 15))


def test_the_target_of_a_stem_file_is_the_mixture_minus_the_accompaniment(stem_root):
    track = tracks_of(Musdb18(stem_root))[0]
    mixture, accompaniment, target = (read(recording) for recording in (track.mixture, track.accompaniment, track.target))
    drums, bass, other, vocals = (read(track.stem(stem)) for stem in ("drums", "bass", "other", "vocals"))
    np.testing.assert_array_equal(accompaniment, drums + bass + other)
    np.testing.assert_array_equal(target, mixture - accompaniment)
    # The mixture is coded separately, so the target is the stem plus coding noise.  (At both ends, where the song was cut, every
    # stream has a different click.)
    inner = slice(4096, -4096)
    noise_db = 10 * np.log10(np.square((target - vocals)[:, inner]).sum() / np.square(mixture[:, inner]).sum())
    assert -30 < noise_db < -20


def test_the_signals_of_a_stem_file_stay_aligned_when_resampled(stem_root):
    track = tracks_of(Musdb18(stem_root))[0]
    signals = [list(recording.blocks(16_000, False, 5000)) for recording in (track.mixture, track.accompaniment, track.target)]
    sizes = {tuple(block.shape for block in blocks) for blocks in signals}
    assert len(sizes) == 1
    mixture, accompaniment, target = (np.concatenate(blocks, axis=1) for blocks in signals)
    assert mixture.shape == (1, resampled_length(track.check().num_samples, 44_100, 16_000))
    np.testing.assert_allclose(mixture, accompaniment + target, atol=1e-6)


def test_a_truncated_stem_file_is_refused(tmp_path):
    path = tmp_path / "train" / "A - B.stem.mp4"
    path.parent.mkdir()
    path.write_bytes(STEM_FILE.read_bytes()[:500_000])
    track = tracks_of(detect_source(tmp_path))[0]
    with pytest.raises(AudioError, match=f"{re.escape(str(path))}.*truncated"):
        read(track.accompaniment)


def test_an_mp4_with_too_few_streams_is_refused(tmp_path):
    path = tmp_path / "train" / "A - B.stem.mp4"
    path.parent.mkdir()
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(STEM_FILE), "-map", "0:a:0", "-c", "copy", str(path)], check=True)
    with pytest.raises(AudioError, match=r"has 1 audio stream\(s\), so there is no stream .*complete .stem.mp4"):
        tracks_of(detect_source(tmp_path))[0].check()


# --- MUSDB18-HQ ---


@pytest.mark.parametrize("target", [("vocals",), ("drums",), ("bass", "other"), ("drums", "vocals", "bass")])
def test_accompaniment_and_target_of_wav_folders_are_exact(tmp_path, target):
    signals = song(tmp_path / "train" / "A")
    track = tracks_of(detect_source(tmp_path), target)[0]
    rest = [signals[stem] for stem in STEMS if stem not in target]
    accompaniment = functools.reduce(np.add, rest)
    np.testing.assert_array_equal(read(track.mixture), signals["mixture"])
    np.testing.assert_array_equal(read(track.accompaniment, block_samples=77), accompaniment)
    np.testing.assert_array_equal(read(track.target, block_samples=100), signals["mixture"] - accompaniment)
    for stem in STEMS:
        np.testing.assert_array_equal(read(track.stem(stem)), signals[stem])


def test_channels_are_averaged_or_doubled(tmp_path):
    stereo = song(tmp_path / "stereo" / "train" / "A")["mixture"]
    mono = song(tmp_path / "mono" / "train" / "A", channels=1)["mixture"]
    track = tracks_of(detect_source(tmp_path / "stereo"))[0]
    np.testing.assert_allclose(read(track.mixture, stereo=False), stereo.mean(axis=0, keepdims=True), atol=1e-7)
    track = tracks_of(detect_source(tmp_path / "mono"))[0]
    np.testing.assert_array_equal(read(track.mixture, stereo=True), np.repeat(mono, 2, axis=0))
    np.testing.assert_array_equal(read(track.mixture, stereo=False), mono)


def test_more_than_two_channels_become_mono_only(tmp_path):
    song(tmp_path / "train" / "A", channels=4)
    track = tracks_of(detect_source(tmp_path))[0]
    assert read(track.mixture, stereo=False).shape == (1, 4000)
    with pytest.raises(AudioError, match=r"mixture.wav: has 4 channels"):
        read(track.mixture, stereo=True)


def test_wav_folders_need_no_ffmpeg(tmp_path, monkeypatch):
    song(tmp_path / "train" / "A")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read(tracks_of(detect_source(tmp_path))[0].target).shape == (2, 4000)


@pytest.mark.parametrize(
    ("stem", "changes", "text"),
    [
        ("bass", {"num_samples": 3999}, r"bass.wav has 3999 samples"),
        ("mixture", {"num_samples": 4001}, r"mixture.wav has 4001 samples"),
        ("drums", {"sample_rate": 16_000}, r"drums.wav has 16000 Hz"),
        ("other", {"channels": 1}, r"other.wav has 1 channel\(s\)"),
    ],
)
def test_stems_that_disagree_are_refused(tmp_path, stem, changes, text):
    song(tmp_path / "train" / "A")
    song(tmp_path / "elsewhere" / "A", **changes)
    shutil.copy(tmp_path / "elsewhere" / "A" / f"{stem}.wav", tmp_path / "train" / "A" / f"{stem}.wav")
    track = tracks_of(detect_source(tmp_path))[0]
    with pytest.raises(AudioError, match=rf"A: its files disagree: .*{text}.*must have the same length, rate and channels"):
        track.check()
    with pytest.raises(AudioError, match="its files disagree"):
        read(track.target)


def test_a_length_that_only_decoding_tells_is_no_disagreement(tmp_path):
    song(tmp_path / "train" / "A")
    mixture = tmp_path / "train" / "A" / "mixture.wav"
    command = ["ffmpeg", "-v", "error", "-i", mixture, "-f", "flac", "-"]
    mixture.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    track = tracks_of(detect_source(tmp_path))[0]
    assert track.mixture.num_samples is None
    assert track.check().num_samples == 4000
    assert read(track.target).shape == (2, 4000)


def test_a_missing_stem_is_named(tmp_path):
    song(tmp_path / "train" / "A")
    (tmp_path / "train" / "A" / "bass.wav").unlink()
    track = tracks_of(Musdb18HQ(tmp_path))[0]
    text = r"bass\.wav: does not exist\. .* this one holds drums.wav, mixture.wav, other.wav, vocals.wav"
    with pytest.raises(AudioError, match=text):
        track.check()
    with pytest.raises(AudioError, match=text):
        track.accompaniment.identity()
    assert track.mixture.num_samples == 4000


def test_a_target_or_stem_that_does_not_exist_is_refused(tmp_path):
    song(tmp_path / "train" / "A")
    source = detect_source(tmp_path)
    for target in (("guitar",), (), STEMS):
        with pytest.raises(
            AudioError, match=r"does not exist in .*: name one, two or three of the stems vocals, drums, bass, other"
        ):
            tracks_of(source, target)
    with pytest.raises(ValueError, match="A: has no stem 'guitar'; it has vocals, drums, bass, other"):
        tracks_of(source)[0].stem("guitar")


# --- Splits ---


def test_musdb_names_are_split_as_musdb_splits_them(tmp_path):
    train = ["Some - Song", "A Song - Of Training", VALIDATION_NAME, "Meaxic - Take A Step"]
    for root, source in ((musdb18(tmp_path / "mp4", train, ["Z"]), Musdb18), (hq(tmp_path / "hq", train, ["Z"]), Musdb18HQ)):
        assert detect_source(root) == source(root)
        tracks = tracks_of(detect_source(root), validation_share=0.5)
        assert names(tracks, "validation") == [VALIDATION_NAME, "Meaxic - Take A Step"]
        assert names(tracks, "train") == ["A Song - Of Training", "Some - Song"]
        assert names(tracks, "test") == ["Z"]


def test_other_names_are_split_by_share_and_seed(tmp_path):
    source = detect_source(hq(tmp_path, [f"song{index:02d}" for index in range(50)], ["x", "y"]))
    tracks = tracks_of(source)
    assert [len(names(tracks, split)) for split in ("train", "validation", "test")] == [43, 7, 2]
    assert tracks == tracks_of(source)
    assert names(tracks, "validation") != names(tracks_of(source, seed=1), "validation")
    assert [track.name for track in tracks] == [f"song{index:02d}" for index in range(50)] + ["x", "y"]


@pytest.mark.parametrize(
    ("num_tracks", "share", "expected"),
    [(1, 0.9, 0), (2, 0.01, 1), (2, 0.99, 1), (3, 0.01, 1), (4, 0.01, 2), (10, 0.99, 9), (10, 0.3, 3)],
)
def test_few_tracks_leave_some_to_each_side(tmp_path, num_tracks, share, expected):
    tracks = tracks_of(detect_source(hq(tmp_path, [f"song{index}" for index in range(num_tracks)])), validation_share=share)
    assert len(names(tracks, "validation")) == expected
    assert len(names(tracks, "train")) == num_tracks - expected


def test_a_set_whose_only_songs_are_on_the_list_still_trains(tmp_path):
    tracks = tracks_of(detect_source(hq(tmp_path, [VALIDATION_NAME])))
    assert names(tracks, "train") == [VALIDATION_NAME]


# --- Two folders ---


def two_folders(root: Path) -> Folders:
    rng = np.random.default_rng(0)
    for index, name in enumerate(["with/b.wav", "with/deep/er/a.flac", "with/c.mp3", "without/b.wav", "without/z.WAV"]):
        path = write(root / name.lower(), 0.1 * rng.standard_normal((1 + index % 2, 9000)).astype(np.float32))
        path.rename(root / name)
    (root / "with" / ".hidden").mkdir()
    (root / "with" / ".hidden" / "x.wav").touch()
    (root / "with" / "._b.wav").touch()
    (root / "with" / "notes.txt").touch()
    return Folders(root / "with", root / "without")


def test_two_folders_are_searched_in_depth_and_sorted(tmp_path):
    source = two_folders(tmp_path)
    assert not source.has_stems
    tracks = tracks_of(source, ("vocals",))
    assert [track.name for track in tracks] == [
        "with_target/b.wav",
        "with_target/c.mp3",
        "with_target/deep/er/a.flac",
        "without_target/b.wav",
        "without_target/z.WAV",
    ]
    for track in tracks:
        assert (track.mixture is None) != (track.accompaniment is None)
        assert (track.mixture is not None) == track.name.startswith("with_target")
        assert track.target is None
        assert not track.stems
        (recording,) = track.recordings().values()
        assert read(recording, 16_000).shape == (2, 18_000), "mono among stereo recordings is no error here"
    assert [name.split("/")[0] for name in names(tracks, "validation")] == ["with_target", "without_target"]


def test_a_stem_of_two_folders_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no stem 'vocals'; it has none: its source has no stems"):
        tracks_of(two_folders(tmp_path))[0].stem("vocals")


def test_bad_folders_are_refused(tmp_path):
    source = two_folders(tmp_path)
    empty, text, file = tmp_path / "empty", tmp_path / "text", tmp_path / "file"
    empty.mkdir()
    text.mkdir()
    (text / "readme.txt").touch()
    file.touch()
    good = source.with_target
    for bad, message in (
        (Folders(good, empty), r"empty: is an empty folder\. Put recordings into it"),
        (Folders(text, good), r"text: has no recordings; left out 1 \.txt\..*\.wav"),
        (Folders(good, tmp_path / "none"), "none: does not exist"),
        (Folders(good, file), "file: is not a folder"),
        (Folders(good, good), "are the same folder, or one lies inside the other"),
        (Folders(good, good / "deep"), "are the same folder, or one lies inside the other"),
    ):
        with pytest.raises(AudioError, match=message):
            tracks_of(bad)


def test_a_link_to_itself_is_refused_like_a_folder_that_does_not_exist(tmp_path):
    good, loop = two_folders(tmp_path).with_target, tmp_path / "loop"
    loop.symlink_to("loop")
    for bad in (Folders(loop, good), Folders(good, loop), Folders(good, None, loop)):
        with pytest.raises(UserError, match="loop: does not exist"):
            tracks_of(bad)


# --- Detection ---


def test_musdb18s_names_with_another_suffix_are_songs_with_stems(tmp_path):
    (tmp_path / "train" / "A").mkdir(parents=True)
    for name in ("mixture", *STEMS):
        (tmp_path / "train" / "A" / f"{name}.flac").touch()
    assert detect_source(tmp_path) == Stems(tmp_path)


def test_what_is_no_source_is_refused(tmp_path):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name, message in (
        ("empty", r"empty: holds no tracks\. MUSDB18 is expected as train/NAME\.stem\.mp4 .* train/NAME/STEM\.wav"),
        ("none", "none: does not exist"),
        ("file", "file: is not a folder"),
    ):
        with pytest.raises(AudioError, match=message):
            detect_source(tmp_path / name)
    with pytest.raises(AudioError, match="holds no tracks in train or test"):
        tracks_of(Musdb18HQ(tmp_path / "empty"))


def test_two_sets_in_one_folder_are_refused(tmp_path):
    musdb18(tmp_path, ["A - B"], [])
    hq(tmp_path, ["C - D"])
    with pytest.raises(AudioError, match=r"holds both train/A - B.stem.mp4 \(MUSDB18\) and train/C - D \(MUSDB18-HQ\)"):
        detect_source(tmp_path)


# --- Identity ---


def test_identity_is_relative_and_changes_with_the_file(tmp_path):
    song(tmp_path / "train" / "A")
    track = tracks_of(detect_source(tmp_path))[0]
    before = track.target.identity()
    assert [row[:3] for row in before] == [
        ["train/A/mixture.wav", 0, 1],
        ["train/A/drums.wav", 0, -1],
        ["train/A/bass.wav", 0, -1],
        ["train/A/other.wav", 0, -1],
    ]
    path = tmp_path / "train" / "A" / "bass.wav"
    os.utime(path, ns=(0, 12_345))
    assert track.target.identity() != before
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    tmp_path.rename(moved)
    assert tracks_of(detect_source(moved))[0].mixture.identity() == [before[0]]


def test_a_track_travels_to_another_process(tmp_path):
    song(tmp_path / "train" / "A")
    track = tracks_of(detect_source(tmp_path))[0]
    assert pickle.loads(pickle.dumps(track)) == track


# --- Download ---


class Proxy(http.server.BaseHTTPRequestHandler):
    """A proxy that answers every HTTPS request itself, with `archive`, or with 404 if that is None."""

    tls: ssl.SSLContext
    archive: bytes | None

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        with self.tls.wrap_socket(self.connection, server_side=True) as self.connection:
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            self.handle_one_request()
            self.wfile.flush()

    def do_GET(self) -> None:
        assert ARCHIVE_URL.endswith(self.path)
        self.send_response(404 if self.archive is None else 200)
        self.end_headers()
        self.wfile.write(self.archive or b"")

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    """A certificate of musdb's server, signed by itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder, host = tmp_path_factory.mktemp("tls"), urllib.parse.urlsplit(ARCHIVE_URL).hostname
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout key.pem -out cert.pem"
    names = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    subprocess.run([*command.split(), *names], cwd=folder, capture_output=True, check=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture
def download_through(monkeypatch):
    """Make all downloads of this process go through the proxy at an address."""

    def use(address: str) -> None:
        monkeypatch.setenv("https_proxy", address)
        monkeypatch.setenv("no_proxy", "")
        urllib.request.install_opener(None)  # urllib keeps the proxy with which it began.

    yield use
    urllib.request.install_opener(None)


@pytest.fixture
def proxy(certificate, monkeypatch, download_through):
    """The handler of a running proxy."""
    cert, key = certificate
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    handler = type("Handler", (Proxy,), {"tls": tls, "archive": None})
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        download_through(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield handler
        server.shutdown()
        thread.join()


def archive(names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, STEM_FILE.read_bytes())
    return buffer.getvalue()


def test_the_seven_second_set_is_downloaded_once(tmp_path, proxy):
    proxy.archive = archive(["train/A - B.stem.mp4", "test/C - D.stem.mp4", "../evil.stem.mp4"])
    root = tmp_path / "deep" / "musdb7"
    download_musdb7s(root)
    tracks = tracks_of(detect_source(root))
    assert [(track.name, track.split) for track in tracks] == [("A - B", "train"), ("C - D", "test")]
    assert next(read_blocks(tracks[0].mixture.parts[0].path)).shape[0] == 2
    assert sorted(path.name for path in root.iterdir()) == ["test", "train"]
    assert not list(tmp_path.rglob("evil*")), "nothing is unpacked outside"
    proxy.archive = None
    download_musdb7s(root)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "HTTP Error 404"),
        (b"not an archive", "not a zip file"),
        (archive(["train/A - B.stem.mp4", "test/C - D.stem.mp4"])[:-100], "zip"),
        (archive(["other/A - B.stem.mp4"]), r"no train/\*\.stem\.mp4"),
    ],
    ids=["missing", "text", "truncated", "other files"],
)
def test_a_failed_download_names_the_archive_and_leaves_nothing(tmp_path, proxy, content, text):
    proxy.archive = content
    root = tmp_path / "musdb7"
    with pytest.raises(AudioError, match=rf"{re.escape(ARCHIVE_URL)}: cannot be downloaded to {root} .*{text}"):
        download_musdb7s(root)
    assert not list(root.iterdir())


def test_an_unreachable_server_is_named(tmp_path, download_through):
    download_through("http://127.0.0.1:9")
    with pytest.raises(AudioError, match=rf"{re.escape(ARCHIVE_URL)}: cannot be downloaded"):
        download_musdb7s(tmp_path)
