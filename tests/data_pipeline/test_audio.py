"""Reading and writing audio: real files in every format, and every way in which they break."""

import functools
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline import audio
from data_pipeline.audio import Writer, probe, read_blocks, resample_blocks, resampled_length
from data_pipeline.errors import AudioError
from data_pipeline.workers import worker_pool

RATE = 44_100
SECONDS = 3


def music(num_samples: int = SECONDS * RATE, channels: int = 2, seed: int = 0) -> np.ndarray:
    """A few decaying partials under a little noise, float32 (channels, num_samples)."""
    rng = np.random.default_rng(seed)
    time = np.arange(num_samples) / RATE
    tones = [np.sin(2 * np.pi * frequency * time + rng.uniform(0, 6)) for frequency in (110, 330, 1234, 5000)]
    signal = [0.1 * sum(rng.uniform(0.3, 1) * tone for tone in tones) for _ in range(channels)]
    return (np.stack(signal) + 0.005 * rng.standard_normal((channels, num_samples))).astype(np.float32)


def read(path: Path, **options) -> np.ndarray:
    return np.concatenate(list(read_blocks(path, **options)), axis=1)


def write(path: Path, signal: np.ndarray, sample_rate: int = RATE, **options) -> Path:
    with Writer(path, sample_rate, len(signal), **options) as writer:
        writer.write(signal)
    return path


def encode(path: Path, *options: str) -> Path:
    """Encode `music()` with ffmpeg, for formats that libsndfile does not write."""
    path.write_bytes(encoded(path.suffix, *options))
    return path


@functools.cache
def encoded(suffix: str, *options: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        source, path = write(Path(folder, "source.wav"), music()), Path(folder, f"encoded{suffix}")
        subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", str(source), *options, str(path)], check=True)
        return path.read_bytes()


def cut(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def run(script: str) -> str:
    """Run a Python script in another process; return its output."""
    root = Path(audio.__file__).parents[1]
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True).stdout


def expect(text: str, path: Path):
    """Expect an AudioError that names the file and matches the text."""
    return pytest.raises(AudioError, match=f"{re.escape(str(path))}.*{text}")


# --- Reading ---


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_signals_of_any_length_and_number_of_channels_are_written_and_read(tmp_path, suffix):
    for channels in (1, 2) if suffix == ".mp3" else (1, 2, 6):
        for num_samples in (1, 1152, 4097, audio.BLOCK_SAMPLES + 1):
            path = write(tmp_path / f"a{suffix}", music(num_samples, channels))
            assert read(path).shape == (channels, num_samples)


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.wav", {}, 0),
        ("a.wav", {"subtype": "PCM_16"}, 0.51 / (1 << 15)),
        ("a.wav", {"subtype": "PCM_24"}, 0.51 / (1 << 23)),
        ("a.flac", {}, 0.51 / (1 << 23)),
        ("a.flac", {"subtype": "PCM_16"}, 0.51 / (1 << 15)),
        ("a.ogg", {}, 0.05),
        ("a.mp3", {}, 0.05),
    ],
)
def test_what_is_written_is_read(tmp_path, name, options, tolerance):
    signal = music()
    path = write(tmp_path / name, signal, **options)
    info = probe(path)
    assert (info.sample_rate, info.num_channels, info.num_samples) == (RATE, 2, signal.shape[1])
    back = read(path)
    assert back.dtype == np.float32
    assert back.shape == signal.shape
    assert np.abs(back - signal).max() <= tolerance
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.m4a", []),
        ("a.m4a", ["-c:a", "alac"]),
        ("a.mp4", ["-movflags", "+faststart"]),
        ("a.webm", []),
        ("a.wma", []),
        ("a.aac", []),
    ],
)
def test_what_only_ffmpeg_reads(tmp_path, name, options):
    path = encode(tmp_path / name, *options)
    back = read(path)
    info = probe(path)
    assert info.num_channels == back.shape[0] == 2
    if info.num_samples is not None:
        assert abs(info.num_samples - back.shape[1]) <= 0.25 * info.sample_rate
    assert back.shape[1] / info.sample_rate == pytest.approx(SECONDS, abs=0.1)
    assert back.std() == pytest.approx(music().std(), rel=0.1)


@pytest.mark.parametrize(
    ("name", "layout", "options"),
    [
        ("pipe.flac", "quad", "-f flac - | cat >"),
        ("flac.oga", "quad", "-c:a flac"),
        ("flac.mka", "quad", "-c:a flac"),
        ("wide.mka", "7.1(wide)", "-c:a flac"),
        ("nameless.mka", "FL+FR+LFE+BC", "-c:a flac"),
        ("two.mka", "FC+LFE", "-c:a flac"),
        ("wavpack.mka", "quad", "-c:a wavpack"),
        ("a.wv", "quad", ""),
        ("a.tta", "quad", ""),
        ("a.ac3", "quad", ""),
        ("alac.m4a", "3.0", "-c:a alac"),
        ("unknown.mka", "quad", "-c:a pcm_s16le"),  # Matroska stores the number of channels only.
        ("many.mka", "hexadecagonal", "-c:a pcm_s16le"),
    ],
)
def test_each_channel_is_read_as_it_is(tmp_path, name, layout, options):
    num_channels = {"7.1(wide)": 8, "3.0": 3, "FC+LFE": 2, "hexadecagonal": 16}.get(layout, 4)
    levels = 0.05 * np.arange(1, num_channels + 1)
    tones = "|".join(f"{level}*sin({210 * (i + 1)}*2*PI*t)" for i, level in enumerate(levels))
    source = f"-f lavfi -i 'aevalsrc={tones}:s={RATE}:d=1:c={layout}'"
    subprocess.run(f"ffmpeg -v error -nostdin {source} {options} {name}", shell=True, cwd=tmp_path, check=True)
    signal = read(tmp_path / name)
    assert len(signal) == probe(tmp_path / name).num_channels == num_channels
    middle = signal[:, RATE // 4 : 3 * RATE // 4]
    waves = np.exp(2j * np.pi * 210 / RATE * np.outer(np.arange(1, num_channels + 1), np.arange(middle.shape[1])))
    np.testing.assert_allclose(np.abs(middle @ waves.T) * 2 / middle.shape[1], np.diag(levels), atol=0.01)


def surround(num_channels: int) -> np.ndarray:
    """A sine of its own frequency in each channel, float32 (num_channels, RATE)."""
    return (0.2 * np.sin(2 * np.pi * 30 / RATE * np.outer(np.arange(1, num_channels + 1), np.arange(RATE)))).astype(np.float32)


def loudest(signal: np.ndarray, sample_rate: int) -> list[int]:
    """By channel, the number of the sine that is loudest."""
    middle = signal[:, sample_rate // 4 : 3 * sample_rate // 4]
    waves = np.exp(2j * np.pi * 30 / sample_rate * np.outer(np.arange(1, len(signal) + 1), np.arange(middle.shape[1])))
    return np.argmax(np.abs(middle @ waves.T), axis=1).tolist()


@pytest.mark.parametrize(("num_channels", "layout"), [(3, "3.0"), (4, "quad"), (5, "5.0"), (6, "5.1"), (7, "6.1"), (8, "7.1")])
def test_surround_in_ogg_is_read_and_written_in_the_order_of_wav(tmp_path, num_channels, layout):
    source, order = write(tmp_path / "a.wav", surround(num_channels)), list(range(num_channels))
    encoders = {"v.ogg": "libvorbis"} | ({"o.opus": "libopus -mapping_family 1"} if num_channels > 4 else {})
    for name, codec in encoders.items():
        options = f"-channel_layout {layout} -i {source} -b:a {64 * num_channels}k -c:a {codec}"
        subprocess.run(f"ffmpeg -v error -nostdin {options} {name}", shell=True, cwd=tmp_path, check=True)
        path = tmp_path / name
        signal, rate = read(path), probe(path).sample_rate
        assert loudest(signal, rate) == order
        assert signal.shape[1] == pytest.approx(rate, abs=rate // 50)
    write(tmp_path / "written.ogg", surround(num_channels))
    subprocess.run("ffmpeg -v error -nostdin -i written.ogg decoded.wav", shell=True, cwd=tmp_path, check=True)
    assert loudest(read(tmp_path / "decoded.wav"), RATE) == order


@pytest.mark.parametrize(("first", "second"), [("quad", "stereo"), ("stereo", "quad"), ("quad", "5.1")])
def test_the_number_of_channels_is_constant_where_it_changes_in_the_file(tmp_path, first, second):
    source = "ffmpeg -v error -nostdin -f lavfi -i"
    parts = [f"{source} 'anoisesrc=d=1,aformat=channel_layouts={layout}' {layout}.ac3" for layout in (first, second)]
    subprocess.run(f"{'; '.join(parts)}; cat {first}.ac3 {second}.ac3 > a.ac3", shell=True, cwd=tmp_path, check=True)
    expected = sum(read(tmp_path / f"{layout}.ac3").shape[1] for layout in (first, second))
    assert read(tmp_path / "a.ac3").shape == (probe(tmp_path / "a.ac3").num_channels, expected)


def test_opus_is_read_at_its_own_rate(tmp_path):
    path = encode(tmp_path / "a.opus", "-c:a", "libopus")
    assert probe(path).sample_rate == 48_000
    assert read(path).shape[1] == pytest.approx(SECONDS * 48_000, abs=960)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.m4a"])
def test_the_samples_do_not_depend_on_the_size_of_the_blocks(tmp_path, name):
    path = encode(tmp_path / name) if name == "a.m4a" else write(tmp_path / name, music())
    np.testing.assert_array_equal(read(path, block_samples=4099), read(path))


@pytest.mark.parametrize("block_samples", [1000, 4096, 1 << 20])
def test_all_blocks_but_the_last_have_the_length_asked_for(tmp_path, block_samples):
    path = write(tmp_path / "a.wav", music(50_000))
    for rate in (None, 16_000, 48_000):
        lengths = [block.shape[1] for block in read_blocks(path, block_samples=block_samples, sample_rate=rate)]
        assert set(lengths[:-1]) <= {block_samples}
        assert 0 < lengths[-1] <= block_samples
        assert sum(lengths) == resampled_length(50_000, RATE, rate or RATE)


def test_audio_under_another_formats_suffix_is_read(tmp_path):
    path = encode(tmp_path / "a.m4a")
    whole = read(path)
    np.testing.assert_array_equal(read(path.rename(tmp_path / "a.wav")), whole)


def test_a_wav_or_flac_from_a_pipe_has_no_length_in_its_header_and_is_read(tmp_path):
    signal = music()
    source = write(tmp_path / "source.wav", signal)
    for suffix in ("wav", "flac"):
        command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(source), "-c:a", {"wav": "pcm_f32le", "flac": "flac"}[suffix]]
        data = subprocess.run([*command, "-f", suffix, "pipe:1"], capture_output=True, check=True).stdout
        path = tmp_path / f"pipe.{suffix}"
        path.write_bytes(data)
        assert read(path).shape == signal.shape


def test_an_abandoned_reader_leaves_no_ffmpeg_behind(tmp_path):
    path = encode(tmp_path / "a.m4a")
    blocks = read_blocks(path, block_samples=100)
    next(blocks)
    blocks.close()
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if children.exists():
        names = [Path(f"/proc/{child}/comm").read_text().strip() for child in children.read_text().split()]
        assert "ffmpeg" not in names


# --- Resampling ---


@pytest.mark.parametrize(("from_rate", "to_rate"), [(48_000, 44_100), (44_100, 48_000), (44_100, 16_000), (8_000, 44_100)])
def test_resampling_has_the_documented_length_and_no_seams(from_rate, to_rate):
    signal = music(30_011)
    outputs = []
    for size in (30_011, 50, 977, 8192):
        blocks = (signal[:, begin : begin + size] for begin in range(0, signal.shape[1], size))
        outputs.append(np.concatenate(list(resample_blocks(blocks, from_rate, to_rate, 1000)), axis=1))
    for output in outputs:
        assert output.shape == (2, resampled_length(30_011, from_rate, to_rate))
        np.testing.assert_allclose(output, outputs[0], atol=1e-7)


def test_resampling_keeps_time_and_pitch():
    time = np.arange(5 * 48_000) / 48_000
    signal = np.sin(2 * np.pi * 1000 * time).astype(np.float32)[None]
    output = np.concatenate(list(resample_blocks(iter([signal]), 48_000, 16_000)), axis=1)
    expected = np.sin(2 * np.pi * 1000 * np.arange(5 * 16_000) / 16_000)
    np.testing.assert_allclose(output[0, 500:-500], expected[500:-500], atol=1e-4)


def test_the_sum_of_resampled_signals_is_the_resampled_sum():
    first, second = music(50_000, seed=1), music(50_000, seed=2)

    def resampled(signal: np.ndarray) -> np.ndarray:
        return np.concatenate(list(resample_blocks(iter([signal]), RATE, 16_000)), axis=1)

    np.testing.assert_allclose(resampled(first) + resampled(second), resampled(first + second), atol=5e-7)


# --- Bad files ---


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.flac", "a.ogg", "a.mp3", "a.opus", "front.m4a", "end.m4a", "a.webm"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    path = tmp_path / name
    if name == "a.aiff":
        soundfile.write(path, music().T, RATE)
    elif path.suffix in audio.WRITE_SUFFIXES:
        write(path, music())
    else:
        encode(path, *(["-movflags", "+faststart"] if name == "front.m4a" else []))
    read(path)
    with expect("truncated", cut(path, share)):
        read(path)


def test_a_wav_that_lost_one_sample_is_refused(tmp_path):
    path = write(tmp_path / "a.wav", music(1000), subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-4])
    with expect("its header promises 4000 bytes of samples, the file has 3996", path):
        probe(path)


def test_a_truncated_rf64_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, music(1000).T, RATE, "FLOAT", format="RF64")
    assert read(path).shape == (2, 1000)
    with expect("its header promises 8000 bytes", cut(path)):
        probe(path)


def test_a_flac_with_a_damaged_frame_is_refused(tmp_path):
    path = write(tmp_path / "a.flac", music())
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    with expect(r"is damaged near \d", path):
        read(path)


def test_an_mp4_with_damaged_samples_is_refused(tmp_path):
    path = encode(tmp_path / "a.m4a")
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    data[len(data) // 3 : len(data) // 2] = rng.integers(0, 256, len(data) // 2 - len(data) // 3, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    with expect(r"is damaged near \d", path):
        read(path)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.m4a"])
def test_what_is_no_audio_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"The quick brown fox jumps over the lazy dog. " * 100)
    with expect("cannot be read as audio", path):
        read(path)


def test_a_video_without_sound_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", "color=size=16x16:duration=0.2", str(path)]
    subprocess.run(command, check=True)
    with expect("holds no audio", path):
        probe(path)


@pytest.mark.parametrize(("name", "told"), [("a.mka", True), ("a.ogg", True), ("a.stem.mp4", False)])
def test_streams_that_are_not_read_are_told_and_by_no_worker(tmp_path, capfd, name, told):
    path = tmp_path / name
    sines = [word for hertz in (300, 700) for word in ("-f", "lavfi", "-i", f"sine={hertz}:d=0.5")]
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *sines, "-map", "0", "-map", "1", str(path)], check=True)
    read(path)
    with worker_pool(1) as pool:
        pool.submit(probe, path).result()
    assert capfd.readouterr().err.count(f"{path}: has 2 audio streams, of which the first is read.") == told


def test_a_stream_that_is_not_there_is_refused(tmp_path):
    path = encode(tmp_path / "a.m4a")
    with expect(r"has 1 audio stream\(s\), so there is no stream 4", path):
        read(path, stream=4)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with expect("does not exist", tmp_path / "none.wav"):
        probe(tmp_path / "none.wav")
    with expect("is not a file", tmp_path):
        probe(tmp_path)


def test_zero_length_is_refused(tmp_path):
    empty = tmp_path / "empty.mp3"
    empty.touch()
    with expect("0 bytes, zero length", empty):
        read(empty)
    for name in ("a.wav", "a.flac"):
        path = write(tmp_path / name, np.zeros((2, 0), np.float32))
        with expect("zero length", path):
            probe(path)
        with expect("zero length", path):
            read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rate", [None, 16_000])
def test_nan_and_infinite_samples_are_refused_with_their_place(tmp_path, value, rate):
    signal = music()
    signal[1, 2 * RATE] = value
    path = write(tmp_path / "a.wav", signal)
    with expect(r"NaN or infinite, the first at 2\.000 s", path):
        read(path, sample_rate=rate, block_samples=1000)


def test_a_missing_ffmpeg_is_named_with_the_remedy(tmp_path, monkeypatch):
    path = encode(tmp_path / "a.m4a")
    wav = write(tmp_path / "a.wav", music())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match=r"ffmpeg and ffprobe not found on the PATH.*Install them: `apt-get install ffmpeg`"):
        audio.require_ffmpeg()
    with pytest.raises(AudioError, match="not found on the PATH"):
        read(path)
    assert read(wav).shape == music().shape, "a wav needs no ffmpeg"
    wav.write_bytes(b"no audio")
    with expect("libsndfile says: .*; ffmpeg is not installed", wav):
        read(wav)


def test_an_impossible_block_length_is_refused(tmp_path):
    path = write(tmp_path / "a.wav", music())
    with pytest.raises(ValueError, match="block_samples is 0"):
        read(path, block_samples=0)


# --- Writing ---


def test_pcm_comes_back_bit_for_bit_full_scale_included(tmp_path):
    for subtype, bits in (("PCM_16", 16), ("PCM_24", 24)):
        half = 1 << (bits - 1)
        steps = np.r_[-half, half - 1, np.random.default_rng(0).integers(-half, half, 10_000)]
        signal = (steps / half).astype(np.float32)[None]
        for suffix in (".wav", ".flac"):
            np.testing.assert_array_equal(read(write(tmp_path / f"{subtype}{suffix}", signal, subtype=subtype)), signal)


def test_integer_formats_clip_and_float_keeps_what_is_beyond_full_scale(tmp_path):
    signal = np.array([[-2, -1, 0, 1, 2]], np.float32)
    np.testing.assert_array_equal(read(write(tmp_path / "a.wav", signal)), signal)
    np.testing.assert_allclose(read(write(tmp_path / "a.flac", signal)), [[-1, -1, 0, 1, 1]], atol=1e-6)


def test_an_error_leaves_no_file_and_keeps_the_one_before(tmp_path):
    path = write(tmp_path / "a.wav", music(100))
    before = path.read_bytes()

    def stopped() -> None:
        with Writer(path, RATE, 2) as writer:
            writer.write(music(50_000))
            assert path.read_bytes() == before, "nothing appears before the end"
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stopped()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_wav_becomes_rf64(tmp_path):
    path = tmp_path / "a.wav"
    with Writer(path, RATE, 2, num_samples=1 << 30) as writer:
        writer.write(music(1000))
    assert path.read_bytes()[:4] == b"RF64"
    np.testing.assert_array_equal(read(path), music(1000))


@pytest.mark.parametrize(
    ("name", "rate", "channels", "options", "text"),
    [
        ("a.xyz", RATE, 2, {}, r"cannot write .xyz; use one of .wav, .flac, .ogg, .mp3"),
        ("a.mp3", 96_000, 2, {}, r".mp3 cannot hold 2 channels at 96000 Hz .*Write .wav or .flac, or resample"),
        ("a.ogg", 200_001, 2, {}, r".ogg cannot hold 200001 Hz, only up to 200000. Write .wav"),
        ("a.mp3", RATE, 6, {}, r".mp3 cannot hold 6 channels .*Write .wav or .flac\.$"),
        ("a.flac", RATE, 9, {}, r".flac cannot hold 9 channels .*Write .wav\.$"),
        ("a.mp3", RATE, 2, {"subtype": "PCM_16"}, r".mp3 cannot be written as PCM_16"),
        ("none/a.wav", RATE, 2, {}, "the folder .*none does not exist"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, rate, channels, options, text):
    with expect(text, tmp_path / name):
        Writer(tmp_path / name, rate, channels, **options)
    assert not list(tmp_path.iterdir())


def test_a_block_of_another_shape_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match=r"shape \(1, 10\); it must be \(2, samples\)"),
        Writer(tmp_path / "a.wav", RATE, 2) as writer,
    ):
        writer.write(np.zeros((1, 10), np.float32))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("missing_pages", [1, 2, 6])
def test_a_disk_that_is_full_when_a_file_is_closed_is_named_and_leaves_nothing(small_disk, suffix, missing_pages):
    path = small_disk / f"a{suffix}"
    size = write(path, music(60_000)).stat().st_size
    path.unlink()
    room = (-(-size // 4096) - missing_pages) * 4096
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
    with expect(r"cannot be written \(.*\)\. The disk has 0 MB left; is it full\?", path):
        write(path, music(60_000))
    assert list(small_disk.iterdir()) == [filler]


def test_a_refused_write_is_named_and_leaves_nothing(tmp_path):
    # A limit on the file's size fails the same write as a full disk does, and needs no rights.
    script = f"""
import os, signal, resource
import numpy as np
from data_pipeline.audio import Writer
from data_pipeline.errors import AudioError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
signals = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 60_000)).astype(np.float32)
for suffix in {SUFFIXES}:
    path = {str(tmp_path / "a")!r} + suffix
    for missing in (None, 1, 500, 5000):
        if missing is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, resource.RLIM_INFINITY))
        try:
            with Writer(path, 44_100, 2) as writer:
                writer.write(signals)
        except AudioError as error:
            outcome = str(error)
        else:
            outcome, size = "written", os.stat(path).st_size
            os.unlink(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(suffix, missing, outcome, sep="|")
"""
    for line in run(script).splitlines():
        suffix, missing, outcome = line.split("|")
        pattern = rf"a{re.escape(suffix)}: cannot be written \(.*\)\. The disk has \d+ MB left; is it full\?"
        assert re.search("written" if missing == "None" else pattern, outcome), line
    assert not list(tmp_path.iterdir())


# --- Long files ---


def test_memory_is_constant_in_the_length_of_a_half_hour_wav(tmp_path):
    # The samples are a hole in the file, which takes no room on the disk.
    rate, seconds = 22_050, 1800
    path = tmp_path / "long.wav"
    data_bytes = seconds * rate * 2
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + data_bytes, b"WAVE", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16, b"data", data_bytes
    )
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + data_bytes)
    # In another process: the peak of this one belongs to other tests.
    script = f"""
import resource
from data_pipeline.audio import read_blocks
blocks = read_blocks({str(path)!r}, sample_rate=16_000)
count = sum(next(blocks).shape[1] for _ in range(20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count += sum(block.shape[1] for block in blocks)
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    count, grown = map(int, run(script).split())
    assert count == seconds * 16_000
    assert grown < 20_000 * (1 if sys.platform == "linux" else 1000), (
        "more than 20 MB (ru_maxrss is in kB on Linux, in bytes on macOS)"
    )


@pytest.mark.parametrize(
    ("offset", "number", "named"), [(22, 500, "500 channels"), (24, 5, "5 Hz"), (24, 4_000_000, "4000000 Hz")]
)
def test_a_header_that_no_recording_has_is_refused(tmp_path: Path, offset: int, number: int, named: str) -> None:
    path = tmp_path / "song.wav"
    soundfile.write(path, np.zeros(60_000, np.int16), 8000)
    data = bytearray(path.read_bytes())
    size = 2 if offset == 22 else 4
    data[offset : offset + size] = number.to_bytes(size, "little")
    path.write_bytes(data)
    for read in (probe, lambda path: list(read_blocks(path))):
        with pytest.raises(AudioError, match=re.escape(str(path))) as caught:
            read(path)
        assert named in str(caught.value)
