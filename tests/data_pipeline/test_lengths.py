"""Every sample of a file is read: files as real tools write them, against their true lengths."""

import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline import audio
from data_pipeline.audio import probe, read_blocks
from data_pipeline.errors import AudioError

FIRST_S, SECOND_S, RATE = 1.5, 1.0, 44_100
BOTH_S = FIRST_S + SECOND_S
LOSSY_S = 0.1  # Encoders and decoders add up to two frames.

PICTURE = "-f lavfi -i color=s=32x32:r=10:d=4"

# Name of the file, seconds of audio, and the shell commands that make it from first.wav and second.wav (16 bit, stereo), which
# last 1.5 s and 1 s, and silence.wav, which begins with 2 s of silence before the samples of first.wav.
WHOLE = [
    # MPEG audio: with and without a header that states the length.
    ("xing.mp3", FIRST_S, "ffmpeg -i first.wav -q:a 2 OUT"),
    ("info.mp3", FIRST_S, "ffmpeg -i first.wav -b:a 128k OUT"),
    ("vbr-pipe.mp3", FIRST_S, "ffmpeg -i first.wav -q:a 2 -f mp3 - | cat > OUT"),
    ("cbr-pipe.mp3", FIRST_S, "ffmpeg -i first.wav -b:a 128k -f mp3 - | cat > OUT"),
    ("loop-pipe.mp3", 4 * FIRST_S, "ffmpeg -stream_loop 3 -i first.wav -q:a 2 -f mp3 - | cat > OUT"),
    ("silence-pipe.mp3", 2 + FIRST_S, "ffmpeg -i silence.wav -q:a 2 -f mp3 - | cat > OUT"),
    ("no-header-no-tag.mp3", FIRST_S, "ffmpeg -i first.wav -write_xing 0 -id3v2_version 0 -q:a 2 OUT"),
    ("a,b:c 100%.mp3", FIRST_S, "ffmpeg -i first.wav -write_xing 0 -q:a 2 OUT"),
    ("layer2.mp3", FIRST_S, "ffmpeg -i first.wav -c:a mp2 -f mp2 OUT"),
    ("low-rate.mp3", FIRST_S, "ffmpeg -i first.wav -ar 22050 -ac 1 -q:a 2 -f mp3 - | cat > OUT"),
    ("lame.mp3", FIRST_S, "lame --quiet -V2 first.wav OUT"),
    ("lame-no-header.mp3", FIRST_S, "lame --quiet -t -V2 first.wav OUT"),
    ("id3v1.mp3", FIRST_S, "ffmpeg -i first.wav -write_xing 0 -q:a 2 -write_id3v1 1 -metadata title=x OUT"),
    ("ape.mp3", FIRST_S, "ffmpeg -i first.wav -q:a 2 a.mp3; { cat a.mp3; printf APETAGEX; printf '%24s' | tr ' ' '\\0'; } > OUT"),
    ("joined.mp3", BOTH_S, "ffmpeg -i first.wav -q:a 2 a.mp3; ffmpeg -i second.wav -q:a 2 b.mp3; cat a.mp3 b.mp3 > OUT"),
    (
        "joined-bare.mp3",
        BOTH_S,
        "ffmpeg -i first.wav -write_xing 0 -q:a 2 a.mp3; ffmpeg -i second.wav b.mp3; cat a.mp3 b.mp3 > OUT",
    ),
    ("bare-joined.mp3", BOTH_S, "ffmpeg -i first.wav a.mp3; ffmpeg -i second.wav -write_xing 0 b.mp3; cat a.mp3 b.mp3 > OUT"),
    ("mp3-joined.flac", BOTH_S, "ffmpeg -i first.wav a.mp3; ffmpeg -i second.wav b.mp3; cat a.mp3 b.mp3 > OUT"),
    ("mp3-in.wav", FIRST_S, "ffmpeg -i first.wav -c:a libmp3lame -q:a 2 OUT"),
    # Ogg.
    ("pipe.ogg", FIRST_S, "ffmpeg -i first.wav -f ogg - | cat > OUT"),
    ("oggenc.ogg", FIRST_S, "oggenc -Q first.wav -o OUT"),
    ("joined.ogg", BOTH_S, "ffmpeg -i first.wav a.ogg; ffmpeg -i second.wav b.ogg; cat a.ogg b.ogg > OUT"),
    ("opusenc.opus", FIRST_S, "opusenc --quiet first.wav OUT"),
    ("joined.opus", BOTH_S, "ffmpeg -i first.wav a.opus; ffmpeg -i second.wav b.opus; cat a.opus b.opus > OUT"),
    ("surround.opus", FIRST_S, "ffmpeg -i first.wav -ac 6 -c:a libopus -mapping_family 1 OUT"),
    ("flac-in.ogg", FIRST_S, "ffmpeg -i first.wav -c:a flac OUT"),
    (
        "joined-flac-in.oga",
        BOTH_S,
        "ffmpeg -i first.wav -c:a flac a.oga; ffmpeg -i second.wav -c:a flac b.oga; cat a.oga b.oga > OUT",
    ),
    ("tags-between.ogg", 2 * FIRST_S, "ffmpeg -i first.wav a.ogg; { cat a.ogg; printf 'TAG%125s'; cat a.ogg; } > OUT"),
    ("tag-behind.opus", FIRST_S, "ffmpeg -i first.wav a.opus; { cat a.opus; printf 'APETAGEX%24s'; } > OUT"),
    ("picture.ogv", FIRST_S, f"ffmpeg {PICTURE} -i first.wav -c:v libtheora -c:a libvorbis OUT"),
    # FLAC.
    ("pipe.flac", FIRST_S, "ffmpeg -i first.wav -f flac - | cat > OUT"),
    ("flac-pipe.flac", FIRST_S, "flac -s -c - < first.wav | cat > OUT"),
    ("joined.flac", BOTH_S, "ffmpeg -i first.wav a.flac; ffmpeg -i second.wav b.flac; cat a.flac b.flac > OUT"),
    ("joined-pipe.flac", BOTH_S, "ffmpeg -i first.wav -f flac - | cat > OUT; ffmpeg -i second.wav -f flac - | cat >> OUT"),
    ("joined-half-pipe.flac", BOTH_S, "ffmpeg -i first.wav OUT; ffmpeg -i second.wav -f flac - | cat >> OUT"),
    (
        "id3v2.flac",
        FIRST_S,
        "ffmpeg -i first.wav a.flac; { printf 'ID3\\4\\0\\0\\0\\0\\0\\012'; printf '%10s' ' '; cat a.flac; } > OUT",
    ),
    # WAV and its relatives.
    ("pipe.wav", FIRST_S, "ffmpeg -i first.wav -f wav - | cat > OUT"),
    ("sox-pipe.wav", FIRST_S, "cat first.wav | sox -t wav - -t wav - | cat > OUT"),
    ("joined.wav", BOTH_S, "cat first.wav second.wav > OUT"),
    ("joined-pipe.wav", BOTH_S, "ffmpeg -i first.wav -f wav - | cat > OUT; ffmpeg -i second.wav -f wav - | cat >> OUT"),
    ("gsm.wav", FIRST_S, "ffmpeg -i first.wav -ac 1 -ar 8000 -c:a libgsm_ms OUT"),
    ("adpcm.wav", FIRST_S, "ffmpeg -i first.wav -c:a adpcm_ms OUT"),
    ("adpcm-pipe.wav", FIRST_S, "ffmpeg -i first.wav -c:a adpcm_ms -f wav - | cat > OUT"),
    ("g722.wav", FIRST_S, "ffmpeg -i first.wav -ac 1 -ar 16000 -c:a g722 OUT"),
    ("rf64.wav", FIRST_S, "ffmpeg -i first.wav -rf64 always OUT"),
    ("rf64-pipe.wav", FIRST_S, "ffmpeg -i first.wav -rf64 always -f wav - | cat > OUT"),
    ("whole.w64", FIRST_S, "ffmpeg -i first.wav OUT"),
    ("pipe.w64", FIRST_S, "ffmpeg -i first.wav -f w64 - | cat > OUT"),
    ("joined.w64", BOTH_S, "ffmpeg -i first.wav a.w64; ffmpeg -i second.wav b.w64; cat a.w64 b.w64 > OUT"),
    ("pipe.aiff", FIRST_S, "ffmpeg -i first.wav -f aiff - | cat > OUT"),
    ("sox-pipe.aiff", FIRST_S, "sox first.wav -t aiff - | cat > OUT"),
    ("sox-pipe.aifc", FIRST_S, "sox first.wav -t aifc - | cat > OUT"),
    ("joined.aiff", BOTH_S, "ffmpeg -i first.wav a.aiff; ffmpeg -i second.wav b.aiff; cat a.aiff b.aiff > OUT"),
    ("pipe.caf", FIRST_S, "ffmpeg -i first.wav -f caf - | cat > OUT"),
    ("sox-pipe.caf", FIRST_S, "sox first.wav -t caf - | cat > OUT"),
    ("alac.caf", FIRST_S, "ffmpeg -i first.wav -c:a alac OUT"),
    ("pipe.au", FIRST_S, "ffmpeg -i first.wav -f au - | cat > OUT"),
    # What ffmpeg reads.
    ("whole.m4a", FIRST_S, "ffmpeg -i first.wav OUT"),
    ("alac.m4a", FIRST_S, "ffmpeg -i first.wav -c:a alac OUT"),
    ("edited.m4a", FIRST_S - 0.5, "ffmpeg -i first.wav a.m4a; ffmpeg -ss 0.5 -i a.m4a -c copy OUT"),
    (
        "fragments.mp4",
        FIRST_S,
        "ffmpeg -i first.wav -movflags frag_keyframe+empty_moov -frag_duration 300000 -f mp4 - | cat > OUT",
    ),
    ("raw.aac", FIRST_S, "ffmpeg -i first.wav OUT"),
    ("joined.aac", BOTH_S, "ffmpeg -i first.wav a.aac; ffmpeg -i second.wav b.aac; cat a.aac b.aac > OUT"),
    ("joined.mp2", BOTH_S, "ffmpeg -i first.wav a.mp2; ffmpeg -i second.wav b.mp2; cat a.mp2 b.mp2 > OUT"),
    ("live.mka", FIRST_S, "ffmpeg -i first.wav -f matroska -live 1 - | cat > OUT"),
    ("pipe.webm", FIRST_S, "ffmpeg -i first.wav -f webm - | cat > OUT"),
    *(
        (f"{codec}.mka", FIRST_S, f"ffmpeg -i first.wav -c:a {codec} OUT")
        for codec in ("flac", "pcm_s16le", "libopus", "aac", "ac3", "wavpack", "tta")
    ),
    ("opus.webm", FIRST_S, "ffmpeg -i first.wav -c:a libopus OUT"),
    ("tag-behind.mka", FIRST_S, "ffmpeg -i first.wav -c:a flac a.mka; { cat a.mka; printf 'TAG%125s'; } > OUT"),
    ("mkvmerge.mka", FIRST_S, "ffmpeg -i first.wav a.flac; mkvmerge -q -o OUT a.flac"),
    ("long-picture.mkv", FIRST_S, f"ffmpeg {PICTURE} -i first.wav OUT"),
    ("long-picture.webm", FIRST_S, f"ffmpeg {PICTURE} -i first.wav OUT"),
    ("long-picture.mp4", FIRST_S, f"ffmpeg {PICTURE} -i first.wav OUT"),
    ("late-sound.mkv", FIRST_S, f"ffmpeg {PICTURE} -itsoffset 1 -i first.wav OUT"),
    ("late-sound.mp4", FIRST_S, f"ffmpeg {PICTURE} -itsoffset 1 -i first.wav OUT"),
    ("late-picture.mkv", FIRST_S, f"ffmpeg -itsoffset 1 {PICTURE} -i first.wav OUT"),
    ("whole.tta", FIRST_S, "ffmpeg -i first.wav OUT"),
    ("whole.wv", FIRST_S, "ffmpeg -i first.wav OUT"),
    ("whole.ac3", FIRST_S, "ffmpeg -i first.wav OUT"),
    ("whole.eac3", FIRST_S, "ffmpeg -i first.wav OUT"),
    ("whole.wma", FIRST_S, "ffmpeg -i first.wav OUT"),
    ("picture.wmv", FIRST_S, f"ffmpeg {PICTURE} -i first.wav OUT"),
    ("sound.ts", FIRST_S, "ffmpeg -i first.wav -c:a aac OUT"),
    ("sound.avi", FIRST_S, "ffmpeg -i first.wav -c:a mp2 OUT"),
]
LOSSLESS = (".flac", ".wav", ".w64", ".aiff", ".aifc", ".caf", ".au", ".oga", ".tta", ".wv")
LOSSY = ("adpcm.wav", "adpcm-pipe.wav", "gsm.wav", "g722.wav", "mp3-in.wav")

# Files that hold more than any decoder here reads as one.
JOINED = [
    ("rates.mp3", "ffmpeg -i first.wav a.mp3; ffmpeg -i second.wav -ar 48000 b.mp3; cat a.mp3 b.mp3 > OUT"),
    ("mp3-mp2.wav", "ffmpeg -i first.wav -write_xing 0 a.mp3; ffmpeg -i second.wav -ar 16000 b.mp2; cat a.mp3 b.mp2 > OUT"),
    ("rates.ogg", "ffmpeg -i first.wav a.ogg; ffmpeg -i second.wav -ar 48000 b.ogg; cat a.ogg b.ogg > OUT"),
    ("channels.opus", "ffmpeg -i first.wav a.opus; ffmpeg -i second.wav -ac 1 b.opus; cat a.opus b.opus > OUT"),
    ("rates.wav", "ffmpeg -i second.wav -ar 48000 b.wav; cat first.wav b.wav > OUT"),
    *(
        (f"twice.{suffix}", f"ffmpeg -i first.wav a.{suffix}; cat a.{suffix} a.{suffix} > OUT")
        for suffix in ("m4a", "mka", "webm", "wma", "tta", "wv")
    ),
]


def made(folder: Path, name: str, commands: str) -> Path:
    """Make a file with real tools; skip the test where one is not installed."""
    for tool in ("sox", "flac", "lame", "oggenc", "opusenc", "mkvmerge"):
        if re.search(rf"(^|[;|] *){tool} ", commands) and shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    commands = commands.replace("ffmpeg ", "ffmpeg -y -v error -nostdin ").replace("OUT", '"$OUT"')
    environment = os.environ | {"OUT": name}
    result = subprocess.run(["sh", "-ec", commands], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if "Unknown encoder" in result.stderr:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stderr
    return folder / name


def write_sources(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, seconds in (("first", FIRST_S), ("second", SECOND_S)):
        time = np.arange(round(seconds * RATE)) / RATE
        tones = np.stack([0.3 * np.sin(2 * np.pi * pitch * time) for pitch in (200 + 300 * time, 330)], axis=1)
        soundfile.write(folder / f"{name}.wav", tones + 0.05 * rng.uniform(-1, 1, tones.shape), RATE, "PCM_16")
    first = soundfile.read(folder / "first.wav")[0]
    soundfile.write(folder / "silence.wav", np.concatenate([np.zeros((2 * RATE, 2)), first]), RATE, "PCM_16")


def read(path: Path) -> np.ndarray:
    return np.concatenate(list(read_blocks(path)), axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lengths")
    write_sources(folder)
    return folder


@pytest.mark.parametrize(("name", "seconds", "commands"), WHOLE, ids=[row[0] for row in WHOLE])
def test_every_sample_is_read(folder, name, seconds, commands):
    path = made(folder, name, commands)
    info = probe(path)
    num_samples = sum(block.shape[1] for block in read_blocks(path, block_samples=10_007))
    if name.endswith(LOSSLESS) and name not in LOSSY:
        assert num_samples == round(seconds * RATE)
    assert num_samples / info.sample_rate == pytest.approx(seconds, abs=LOSSY_S)
    if info.num_samples is not None:
        assert info.num_samples == pytest.approx(num_samples, abs=2 * 1152), "a length is a promise or None"


@pytest.mark.parametrize(("name", "commands"), JOINED, ids=[row[0] for row in JOINED])
def test_joined_files_that_cannot_be_read_as_one_are_refused(folder, name, commands):
    path = made(folder, name, commands)
    with pytest.raises(AudioError, match=r"holds a second recording, from byte \d+ on") as error:
        probe(path)
    at = int(str(error.value).split("from byte ")[1].split()[0])
    (folder / f"head-{name}").write_bytes(path.read_bytes()[:at])
    (folder / f"tail-{name}").write_bytes(path.read_bytes()[at:])
    for part in ("head", "tail"):
        assert read(folder / f"{part}-{name}").shape[1] > 0, "the remedy that the message names works"


def test_joined_recordings_are_read_to_the_bit_and_said_once(folder, capfd):
    path = made(folder, "said.flac", "ffmpeg -i first.wav a.flac; ffmpeg -i second.wav b.flac; cat a.flac b.flac > OUT")
    expected = np.concatenate([read(folder / "first.wav"), read(folder / "second.wav")], axis=1)
    np.testing.assert_array_equal(read(path), expected)
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, block_samples=999)), axis=1), expected)
    said = capfd.readouterr().err
    assert said.count("said.flac") == 1
    assert "2 recordings" in said
    assert "1.50 + 1.00 s" in said


def test_joined_recordings_may_have_different_sample_formats(folder):
    path = made(folder, "formats.wav", "ffmpeg -i second.wav -c:a pcm_f32le b.wav; cat first.wav b.wav > OUT")
    expected = np.concatenate([read(folder / "first.wav"), read(folder / "second.wav")], axis=1)
    np.testing.assert_array_equal(read(path), expected)


# --- WAV: lengths that are none ---


@pytest.mark.parametrize(
    "length", [0, 0x7FFFF000, 0x7FFFFFDB, 0x7FFFFFFF, 0x80000000, 0xFFFFF000, 0xFFFFFFDB, 0xFFFFFFFF], ids="{:#x}".format
)
def test_a_wav_from_a_stream_or_a_killed_recorder_is_read(folder, tmp_path, length):
    expected, data = source_and_bytes(folder)
    path = tmp_path / "a.wav"
    path.write_bytes(with_length(data, length))
    assert probe(path).num_samples == expected.shape[1]
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("excess", [4, 1000, 1 << 20])
def test_a_wav_whose_length_is_true_but_not_there_is_truncated(folder, tmp_path, excess):
    _, data = source_and_bytes(folder)
    path = tmp_path / "a.wav"
    length = len(data) - data.index(b"data") - 8
    path.write_bytes(with_length(data, length + excess))
    with pytest.raises(
        AudioError, match=f"truncated: its header promises {length + excess} bytes of samples, the file has {length}"
    ):
        probe(path)


@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (b"LIST" + struct.pack("<I", 12) + b"INFOISFT" + bytes(4), False),
        (b"LIST" + struct.pack("<I", 1000) + b"INFOISFT", False),
        (b"id3 " + struct.pack("<I", 3) + b"abc", False),
        (b"TAG" + bytes(125), False),
        (bytes(512), False),
        (b"\x13\x77" * 3000, True),
    ],
    ids=["list", "half a list", "odd id3", "id3v1", "zeros", "samples"],
)
def test_what_stands_behind_the_samples_of_a_wav(folder, tmp_path, capfd, tail, said):
    expected, data = source_and_bytes(folder)
    path = tmp_path / "a.wav"
    path.write_bytes(data + tail)
    np.testing.assert_array_equal(read(path), expected)
    assert (f"a.wav: {len(tail)} bytes behind its samples" in capfd.readouterr().err) == said


def test_samples_of_an_odd_number_of_bytes(folder, tmp_path):
    signal = np.random.default_rng(0).uniform(-0.5, 0.5, 1001)
    path = tmp_path / "a.wav"
    soundfile.write(path, signal, RATE, "PCM_U8")
    whole = read(path)
    assert whole.shape == (1, 1001)
    for tail in (b"\0LIST", b"LIST"):  # With and without the byte that pads.
        path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"data") + 8 + 1001] + tail + struct.pack("<I", 4) + b"INFO")
        np.testing.assert_array_equal(read(path), whole)


def test_an_rf64_from_a_stream_is_read(folder, tmp_path):
    path = tmp_path / "a.wav"
    expected, _ = source_and_bytes(folder)
    soundfile.write(path, expected.T, RATE, "PCM_16", format="RF64")
    data = path.read_bytes()
    at = data.index(b"ds64") + 16
    path.write_bytes(data[:at] + struct.pack("<Q", 0) + data[at + 8 :])
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize("codec", ["libgsm_ms -ac 1 -ar 8000", "adpcm_ima_wav", "adpcm_yamaha", "libmp3lame -q:a 2"])
@pytest.mark.parametrize("length", [0, 0xFFFFFFFF])
def test_a_coded_wav_from_a_killed_recorder_is_read(folder, tmp_path, codec, length):
    source = made(folder, f"{codec.split()[0]}.wav", f"ffmpeg -i first.wav -c:a {codec} OUT")
    path = tmp_path / "a.wav"
    path.write_bytes(with_length(source.read_bytes(), length))
    assert read(path).shape == pytest.approx(read(source).shape, abs=1024)


def source_and_bytes(folder: Path) -> tuple[np.ndarray, bytes]:
    return read(folder / "first.wav"), (folder / "first.wav").read_bytes()


def with_length(data: bytes, length: int) -> bytes:
    at = data.index(b"data")
    riff = (length + at) & 0xFFFFFFFF
    return data[:4] + struct.pack("<I", riff) + data[8 : at + 4] + struct.pack("<I", length) + data[at + 8 :]


# --- Truncated, damaged, or neither ---


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("info.mp3", "ffmpeg -i first.wav OUT"),
        ("bare.mp3", "ffmpeg -i first.wav -write_xing 0 OUT"),
        ("joined.mp3", "ffmpeg -i first.wav a.mp3; cat a.mp3 a.mp3 > OUT"),
        ("joined.ogg", "ffmpeg -i first.wav a.ogg; cat a.ogg a.ogg > OUT"),
        ("joined.flac", "ffmpeg -i first.wav a.flac; cat a.flac a.flac > OUT"),
        ("joined.wav", "cat first.wav second.wav > OUT"),
        ("pipe.flac", "ffmpeg -i first.wav -f flac - | cat > OUT"),
        ("whole.w64", "ffmpeg -i first.wav OUT"),
        ("whole.caf", "ffmpeg -i first.wav OUT"),
        ("whole.au", "ffmpeg -i first.wav OUT"),
        ("front.m4a", "ffmpeg -i first.wav -movflags +faststart OUT"),
        ("fragments.mp4", "ffmpeg -i first.wav -movflags frag_keyframe+empty_moov -frag_duration 300000 OUT"),
        ("picture.mkv", f"ffmpeg {PICTURE} -i first.wav OUT"),
        ("live.mka", "ffmpeg -i first.wav -f matroska -live 1 - | cat > OUT"),
        ("whole.wma", "ffmpeg -i first.wav OUT"),
        ("whole.aac", "ffmpeg -i first.wav OUT"),
    ],
)
@pytest.mark.parametrize("share", [0.55, 0.93])
def test_a_file_that_ends_early_is_truncated(folder, name, commands, share):
    whole = made(folder, f"whole-{name}", commands)
    path = folder / f"cut-{share}-{name}"
    data = whole.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(AudioError, match="truncated"):
        read(path)


@pytest.mark.parametrize("suffix", ["flac", "m4a"])
def test_a_file_that_goes_on_behind_its_damage_is_not_called_truncated(folder, suffix):
    path = made(folder, f"damaged.{suffix}", "ffmpeg -i silence.wav OUT")
    data = bytearray(path.read_bytes())
    middle = len(data) * 6 // 10
    data[middle : middle + 2000] = np.random.default_rng(1).bytes(2000)
    path.write_bytes(data)
    with pytest.raises(AudioError, match=rf"damaged\.{suffix}: is damaged near (\d\.\d\d) s") as error:
        read(path)
    assert "truncated" not in str(error.value)
    assert 0.5 < float(str(error.value).split("near ")[1].split()[0]) < 3.4


@pytest.mark.parametrize(
    "encoder", ["flac -s -f -o OUT first.wav", "flac -s -f -b 1000 -o OUT first.wav", "ffmpeg -i first.wav OUT"]
)
@pytest.mark.parametrize("stated", [1, 254, 60_000])
def test_a_flac_whose_header_states_less_is_read_whole(folder, encoder, stated):
    path = made(folder, "less.flac", encoder)
    expected, data = read(path), bytearray(path.read_bytes())
    assert data[:8] == b"fLaC\0\0\0\x22"
    data[22:26] = stated.to_bytes(4, "big")  # The length's lower bits; the upper ones are 0 here.
    path.write_bytes(data)
    assert probe(path).num_samples is None
    np.testing.assert_array_equal(read(path), expected)


def test_a_header_that_states_more_than_the_file_can_hold_is_refused(folder):
    """It would reserve the disk for years of music."""
    path = made(folder, "more.flac", "ffmpeg -i first.wav OUT")
    data = bytearray(path.read_bytes())
    data[21] |= 15  # The length's upper bits.
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"more\.flac: has 6\d{10} samples by its header, more than \d+ bytes can hold"):
        probe(path)


def test_an_ogg_without_a_first_page_is_refused_in_one_sentence(folder):
    path = made(folder, "headless.opus", "ffmpeg -i first.wav OUT")
    data = bytearray(path.read_bytes())
    data[5] = 0  # The flags of its first page.
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"headless\.opus: "):
        read(path)


def ogg_pages(data):
    """Split an Ogg file into its pages."""
    return [b"OggS" + page for page in data.split(b"OggS")[1:]]


def with_flags(page, flags):
    return with_checksum(page[:5] + bytes([flags]) + page[6:])


def with_checksum(page):
    """Set the checksum that fits an Ogg page (RFC 3533, section 6)."""
    page = page[:22] + bytes(4) + page[26:]
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", crc) + page[26:]


def test_an_ogg_of_which_an_earlier_page_calls_itself_the_last_is_read_whole(folder):
    # As old encoders write them: libsndfile stops there, though it knows the length.
    path = made(folder, "last.ogg", "sox -n -r 44100 -c 2 -b 16 long.wav synth 12 noise vol 0.3; oggenc -Q long.wav -o OUT")
    pages, whole = ogg_pages(path.read_bytes()), read(path)
    marked = [*pages[:-2], with_flags(pages[-2], pages[-2][5] | 4), pages[-1]]
    (folder / "early.ogg").write_bytes(b"".join(marked))
    with soundfile.SoundFile(folder / "early.ogg") as file:
        assert file.frames == whole.shape[1] > len(file.read()) + 2304
    blocks = list(read_blocks(folder / "early.ogg", block_samples=10_000))
    assert {block.shape[1] for block in blocks[:-1]} == {10_000}
    assert blocks[-1].shape[1] <= 10_000
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), whole, atol=1e-4)
    (folder / "early.ogg").write_bytes(b"".join(marked[:-1])[:-100])
    with pytest.raises(AudioError, match="truncated"):
        list(read_blocks(folder / "early.ogg"))


def zeroed(data, at, size):
    return data[:at] + bytes(size) + data[at + size :]


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def times(data, at, number):
    """Repeat the Ogg page behind a byte, or leave it out."""
    begin = data.index(b"OggS", at)
    end = data.index(b"OggS", begin + 4)
    return data[:begin] + number * data[begin:end] + data[end:]


OGG_DAMAGE = {
    "zeros": lambda data, at: zeroed(data, at, 1 << 16),
    "bit": flipped,
    "cut": lambda data, at: data[:at] + data[at + 4096 :],
    "missing": lambda data, at: times(data, at, 0),
    "repeated": lambda data, at: times(data, at, 2),
    "length": lambda data, at: zeroed(data, data.index(b"OggS", at) + 26, 1),
}


@pytest.mark.parametrize("damage", OGG_DAMAGE)
@pytest.mark.parametrize(("name", "loops"), [("long.ogg", 40), ("long.opus", 40), ("long.oga", 5), ("long.ogv", 20)])
def test_an_ogg_that_is_damaged_in_the_middle_is_refused(folder, name, loops, damage):
    codec = {".ogg": "", ".opus": "", ".oga": "-c:a flac", ".ogv": "-c:v libtheora -c:a libvorbis"}[name[4:]]
    picture = PICTURE if name.endswith("ogv") else ""
    path = folder / name
    if not path.exists():
        made(folder, name, f"ffmpeg {picture} -stream_loop {loops - 1} -i first.wav {codec} OUT")
    data = path.read_bytes()
    duration = read(path).shape[1] / probe(path).sample_rate
    assert duration == pytest.approx(loops * FIRST_S, abs=LOSSY_S)
    damaged = folder / f"{damage}-{name}"
    damaged.write_bytes(OGG_DAMAGE[damage](data, len(data) // 2))
    for look in (probe, read):
        with pytest.raises(AudioError, match=rf"{name}: is damaged near \d+\.\d\d s: .*byte \d+") as error:
            look(damaged)
    at_s = float(str(error.value).split("near ")[1].split()[0])
    assert at_s == pytest.approx(duration / 2, abs=duration / 8)


def test_an_ogg_is_damaged_in_its_second_recording(folder):
    whole = made(folder, "two.opus", "ffmpeg -i first.wav a.opus; ffmpeg -i second.wav b.opus; cat a.opus b.opus > OUT")
    path, data = folder / "second-damaged.opus", whole.read_bytes()
    path.write_bytes(flipped(data, len(data) - 2000))
    with pytest.raises(AudioError, match=r"damaged near 1\.5"):
        probe(path)


def test_an_ogg_whose_pages_have_other_numbers_behind_the_headers_is_read_whole(folder):
    # As of a broadcast that is recorded from its middle on.
    whole = made(folder, "numbers.opus", "ffmpeg -stream_loop 3 -i first.wav OUT")
    pages = ogg_pages(whole.read_bytes())
    renumbered = [with_checksum(page[:18] + struct.pack("<I", 700 + i) + page[22:]) for i, page in enumerate(pages[2:])]
    path = folder / "renumbered.opus"
    path.write_bytes(b"".join(pages[:2] + renumbered))
    np.testing.assert_array_equal(read(path), read(whole))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hole.webm", "-c:a libvorbis"),
        ("opus.webm", "-c:a libopus"),
        ("pcm_s16le.mka", "-c:a pcm_s16le"),
        ("tta.mka", "-c:a tta"),
        ("hole.wma", ""),
        ("hole.tta", ""),
        ("bit.tta", ""),
        ("bit.wv", ""),
        ("bit.ac3", ""),
        ("bit-flac.mka", "-c:a flac"),
    ],
)
def test_a_file_that_only_ffmpeg_reads_is_refused_when_damaged_in_the_middle(folder, name, options):
    path = made(folder, f"middle-{name}", f"ffmpeg -stream_loop 3 -i first.wav {options} OUT")
    data = path.read_bytes()
    assert read(path).shape[1] / probe(path).sample_rate == pytest.approx(4 * FIRST_S, abs=LOSSY_S)
    for share in (0.3, 0.4, 0.5, 0.6, 0.7):
        at = round(share * len(data))
        path.write_bytes(flipped(data, at) if name.startswith("bit") else zeroed(data, at, 4096))
        with pytest.raises(AudioError, match=rf"{name}: is damaged"):
            read(path)


@pytest.mark.parametrize("place", [4, 9, 14])
def test_a_wma_with_a_packet_of_zeros_is_refused(folder, place):
    path = made(folder, "packet.wma", "ffmpeg -stream_loop 3 -i first.wav -packet_size 3200 OUT")
    data = path.read_bytes()
    (header,) = struct.unpack("<Q", data[16:24])
    at = header + 50 + 3200 * place
    assert data[at] == data[at + 3200] == 0x82
    path.write_bytes(zeroed(data, at, 3200))
    with pytest.raises(AudioError, match=rf"packet\.wma: is damaged: no ASF packet begins at byte {at}"):
        probe(path)


def test_an_mp3_whose_header_promises_less_is_read_whole_and_more_is_truncated(folder):
    path = made(folder, "stale.mp3", "ffmpeg -i first.wav OUT")
    data = path.read_bytes()
    at = data.index(b"Info") + 8
    (frames,) = struct.unpack(">I", data[at : at + 4])
    path.write_bytes(data[:at] + struct.pack(">I", frames // 3) + data[at + 4 :])
    assert read(path).shape[1] / RATE == pytest.approx(FIRST_S, abs=LOSSY_S)
    path.write_bytes(data[:at] + struct.pack(">I", frames + 9) + data[at + 4 :])
    with pytest.raises(AudioError, match=rf"truncated: its header promises {frames + 9} frames, the file has {frames}"):
        read(path)


def test_an_mp3_with_a_damaged_frame_is_not_called_truncated(folder):
    path = made(folder, "flipped.mp3", "ffmpeg -i first.wav OUT")
    data = bytearray(path.read_bytes())
    at = data.index(data[data.index(b"Info") - 36 :][:2], len(data) // 2)  # The header of a frame in the middle.
    data[at + 3] |= 0xC0  # Says that it is mono.
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"is damaged near 0\.\d+ s"):
        read(path)


def test_a_recording_cut_in_the_middle_of_a_frame_is_mended_by_the_command_that_the_message_names(folder):
    cut = made(folder, "cut.mp3", "ffmpeg -i first.wav -write_xing 0 a.mp3; head -c 15000 a.mp3 > OUT")
    with pytest.raises(AudioError, match="ffmpeg -i OLD -c copy NEW"):
        probe(cut)
    assert read(made(folder, "mended.mp3", "ffmpeg -i cut.mp3 -c copy OUT")).shape[1] > 0.8 * RATE


def test_what_libsndfile_opens_but_does_not_decode_is_not_called_truncated(tmp_path):
    path = tmp_path / "a.aiff"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 5000), RATE, "DWVW_16")
    with pytest.raises(AudioError, match=r"a\.aiff: cannot be (read|decoded)") as error:
        probe(path)
    assert "truncated" not in str(error.value)


def test_a_container_that_declares_less_than_it_holds_is_read_whole(folder, capfd):
    path = made(folder, "short.m4a", "ffmpeg -i first.wav OUT")
    whole = read(path)
    data = bytearray(path.read_bytes())
    for box, offset in ((b"mdhd", 16), (b"mvhd", 16), (b"tkhd", 24)):
        at = data.index(box) + 4 + offset
        (value,) = struct.unpack(">I", data[at : at + 4])
        data[at : at + 4] = struct.pack(">I", value // 3)
    at = data.index(b"elst")
    data[at : at + 4] = b"free"  # The edit list would cut it.
    path.write_bytes(data)
    assert read(path).shape[1] >= whole.shape[1]
    assert "short.m4a: its container declares" in capfd.readouterr().err


def test_a_zero_length_file_is_not_to_be_removed(tmp_path):
    path = tmp_path / "a.wav"
    with audio.Writer(path, RATE, 2) as writer:
        writer.write(np.zeros((2, 0), np.float32))
    with pytest.raises(AudioError, match=r"a\.wav: .*zero length") as error:
        probe(path)
    assert "emove" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("guess.mp3", "ffmpeg -i first.wav -write_xing 0 -q:a 2 OUT"),
        ("guess.mkv", "ffmpeg -i first.wav OUT"),
        ("guess.wma", "ffmpeg -i first.wav OUT"),
    ],
)
def test_a_length_that_is_no_promise_is_a_guess(folder, name, commands):
    info = probe(made(folder, name, commands))
    assert info.num_samples is None
    assert info.guess / info.sample_rate == pytest.approx(FIRST_S, abs=0.2)
