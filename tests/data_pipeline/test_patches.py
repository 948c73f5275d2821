import re
import shutil
import subprocess
import sys

import librosa
import numpy as np
import pytest
import soundfile

from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.errors import AudioError, DataError
from data_pipeline.patches import PatchMaker, clip_statistics, mix
from data_pipeline.tracks import Folders, Musdb18HQ, find_tracks

RATE = 8000
SPEC = PatchSpec(sample_rate=RATE, clip_samples=4000, n_fft=256, win_length=256, hop_length=64)


def write_song(folder, stems, rate=RATE):
    """Write stems, float (samples,) or (samples, 2), quantized so that the 16-bit mixture is their exact sum."""
    folder.mkdir(parents=True)
    steps = {name: np.round(np.asarray(stem) * 32768).astype(np.int32) for name, stem in stems.items()}
    for name, stem in (steps | {"mixture": sum(steps.values())}).items():
        soundfile.write(folder / f"{name}.wav", stem.astype(np.int16), rate, subtype="PCM_16")
    return {name: stem.astype(np.float32) / 32768 for name, stem in steps.items()}


def noise(seed, num_samples, channels=None, level=0.05):
    shape = num_samples if channels is None else (num_samples, channels)
    return level * np.random.default_rng(seed).uniform(-1, 1, shape) + 0.01


def only_track(root, config):
    (track,) = find_tracks(Musdb18HQ(root), config.target, validation_share=0.5, seed=0)
    return track


def all_patches(track, config, scratch):
    """Collect by signal: starts, active, levels, complex STFT (clips, channels, frames, bins)."""
    scratch.mkdir(exist_ok=True)
    found = {}
    for part in PatchMaker(config).track(track, scratch).patches():
        stft = part.stft[..., 0].astype(np.float32) + 1j * part.stft[..., 1].astype(np.float32)
        found.setdefault(part.signal, []).append((part.starts, part.active, part.levels, stft))
    return {signal: [np.concatenate(column) for column in zip(*parts, strict=True)] for signal, parts in found.items()}


def reference_stft(clips, spec):
    return librosa.stft(
        clips, n_fft=spec.n_fft, hop_length=spec.hop_length, win_length=spec.win_length, window=spec.window, pad_mode="reflect"
    ).swapaxes(-1, -2)


@pytest.fixture
def song(tmp_path):
    stems = write_song(tmp_path / "corpus" / "train" / "Song", {name: noise(seed, 19_000, 2) for seed, name in enumerate(STEMS)})
    return tmp_path / "corpus", stems


@pytest.mark.parametrize(
    "spec",
    [
        PatchSpec(sample_rate=RATE, clip_samples=2000, n_fft=256, win_length=256, hop_length=64, dtype="float32"),
        PatchSpec(RATE, False, 2003, 512, 300, 77, "hann", dtype="float32"),
        PatchSpec(RATE, True, 1999, 256, 200, 100, "blackman", dtype="float32"),
    ],
)
def test_stft_is_a_windowed_centred_dft_frames_before_bins(spec):
    clips = np.random.default_rng(0).standard_normal((3, spec.num_channels, spec.clip_samples)).astype(np.float32)
    stored = PatchMaker(DataConfig(patch=spec)).stft(clips)
    assert stored.shape == (3, *spec.patch_shape)
    # From the definition: periodic window in the middle of n_fft samples, edges reflected.
    phase = 2 * np.pi * np.arange(spec.win_length) / spec.win_length
    window = {
        "hamming": 0.54 - 0.46 * np.cos(phase),
        "hann": 0.5 - 0.5 * np.cos(phase),
        "blackman": 0.42 - 0.5 * np.cos(phase) + 0.08 * np.cos(2 * phase),
    }[spec.window]
    left = (spec.n_fft - spec.win_length) // 2
    window = np.pad(window, (left, spec.n_fft - spec.win_length - left))
    padded = np.pad(clips.astype(np.float64), [(0, 0), (0, 0), (spec.n_fft // 2, spec.n_fft // 2)], mode="reflect")
    for frame in (0, 1, spec.frames // 2, spec.frames - 1):
        begin = frame * spec.hop_length
        expected = np.fft.rfft(padded[..., begin : begin + spec.n_fft] * window)
        np.testing.assert_allclose(stored[:, :, frame, :, 0], expected.real, atol=2e-4)
        np.testing.assert_allclose(stored[:, :, frame, :, 1], expected.imag, atol=2e-4)


@pytest.mark.parametrize("stereo", [False, True])
@pytest.mark.parametrize("level", ["clip", "recording", "reference"])
def test_patches_are_librosas_stft_of_levelled_clips(song, tmp_path, level, stereo):
    root, stems = song
    spec = PatchSpec(RATE, stereo, 4000, 256, 256, 64, level=level)
    config = DataConfig(patch=spec, activity_on="off")
    found = all_patches(only_track(root, config), config, tmp_path / "scratch")
    accompaniment = sum(stems[name] for name in STEMS if name != "vocals").T
    for signal, waveform in {"mixture": accompaniment + stems["vocals"].T, "accompaniment": accompaniment}.items():
        waveform = waveform if stereo else waveform.mean(axis=0, keepdims=True)
        starts, active, levels, stft = found[signal]
        assert starts.tolist() == [0, 4000, 8000, 12_000]  # the last 3000 samples are no whole clip
        assert active.all()
        for start, stored_level, patch in zip(starts, levels, stft, strict=True):
            clip = waveform[:, start : start + 4000]
            scaled = {"clip": clip, "recording": waveform, "reference": None}[level]
            mean, deviation = (0, 1) if scaled is None else (scaled.mean(), scaled.std(ddof=1))
            assert stored_level == pytest.approx(deviation, rel=1e-5)
            expected = reference_stft((clip - mean) / deviation, spec)
            # float16: 11 significant bits, and steps of 2**-24 near zero
            np.testing.assert_allclose(patch, expected, rtol=2**-10, atol=1e-3 * np.abs(expected).max() + 1e-6)


@pytest.mark.parametrize("level", ["clip", "recording", "reference"])
def test_target_is_mixture_less_accompaniment_in_the_mixtures_scale(song, tmp_path, level):
    root, stems = song
    spec = PatchSpec(RATE, False, 4000, 256, 256, 64, level=level, dtype="float32")
    config = DataConfig(patch=spec, activity_on="off", target=("bass",))
    found = all_patches(only_track(root, config), config, tmp_path / "scratch")
    (starts, _, mixture_levels, mixture), (_, _, accompaniment_levels, accompaniment) = found["mixture"], found["accompaniment"]
    difference = mixture - accompaniment * (accompaniment_levels / mixture_levels)[:, None, None, None]
    bass = stems["bass"].mean(axis=1)
    for start, mixture_level, patch in zip(starts, mixture_levels, difference, strict=True):
        clip = bass[start : start + 4000]
        mean = {"clip": clip.mean(), "recording": bass.mean(), "reference": 0}[level]
        np.testing.assert_allclose(patch[0], reference_stft((clip - mean) / mixture_level, spec), atol=2e-4)


def test_deviation_is_torchs_and_silence_stays_silence():
    clips = np.stack([np.full((2, 5), 0.3), np.zeros((2, 5)), np.arange(10.0).reshape(2, 5)]).astype(np.float32)
    mean, deviation = clip_statistics(clips)
    np.testing.assert_allclose(mean, [0.3, 0, 4.5], rtol=1e-6)
    # torch.std divides by n - 1: the sum of squares of 0..9 around 4.5 is 82.5
    np.testing.assert_allclose(deviation, [1, 1, np.sqrt(82.5 / 9)], rtol=1e-6)


def test_mix_sets_the_ratio_and_leaves_the_accompaniment():
    generator = np.random.default_rng(0)
    target, accompaniment = generator.standard_normal((2, 1, 5000)).astype(np.float32) * np.array([[[0.2]], [[0.7]]], np.float32)
    for ratio_db in (-5.0, 0.0, 10.0):
        anew = mix(target + 0.3, accompaniment, ratio_db) - accompaniment
        assert anew.mean() == pytest.approx(0, abs=1e-6)
        assert 20 * np.log10(anew.std() / accompaniment.std()) == pytest.approx(ratio_db, abs=1e-3)
    assert mix(np.full((1, 5000), 0.3, np.float32), accompaniment, 0.0) is None
    assert mix(target, np.zeros((1, 5000), np.float32), 0.0) is None


def test_clips_are_mixed_anew_by_seed_name_and_number_only(tmp_path):
    vocals = noise(7, 40_000)
    vocals[8000:12_000] = 0  # the third clip has no target: it keeps its mixture
    stems = {name: noise(seed, 40_000) for seed, name in enumerate(STEMS)} | {"vocals": vocals}
    write_song(tmp_path / "long" / "train" / "Song", stems)
    write_song(tmp_path / "short" / "train" / "Song", {name: stem[:20_000] for name, stem in stems.items()})
    write_song(tmp_path / "other" / "train" / "Another", stems)
    spec = PatchSpec(RATE, False, 4000, 256, 256, 64, dtype="float32")

    def ratios(name, seed):
        config = DataConfig(patch=spec, activity_on="off", target_to_accompaniment_db=(-5.0, 10.0), seed=seed)
        maker = PatchMaker(config)
        (tmp_path / "scratch").mkdir(exist_ok=True)
        track = maker.track(only_track(tmp_path / name, config), tmp_path / "scratch")
        assert track.unmixed == 1
        parts = {"mixture": [], "accompaniment": []}
        for part in track.patches():
            waveform_level = part.levels[:, None, None, None, None]
            parts[part.signal].append(part.stft * waveform_level)
        mixture, accompaniment = (np.concatenate(parts[signal]) for signal in ("mixture", "accompaniment"))
        energy = [np.square(signal).sum(axis=(1, 2, 3, 4)) for signal in (mixture - accompaniment, accompaniment)]
        return 10 * np.log10((energy[0] + 1e-9) / energy[1])

    long, short = ratios("long", 0), ratios("short", 0)
    np.testing.assert_allclose(long[:5], short, atol=0.01)
    assert long[2] < -60
    drawn = np.delete(long, 2)
    # The STFT's energy is that of the waveform but for the edges of a clip.
    assert np.all((drawn > -5.5) & (drawn < 10.5))
    assert np.ptp(drawn) > 3
    assert np.abs(ratios("other", 0) - long).max() > 1
    assert np.abs(ratios("long", 1) - long).max() > 1


def test_the_level_of_clips_that_are_mixed_anew_is_measured_anew(tmp_path):
    write_song(tmp_path / "corpus" / "train" / "Song", {name: noise(seed, 40_000) for seed, name in enumerate(STEMS)})
    spec = PatchSpec(RATE, False, 4000, 256, 256, 64)
    config = DataConfig(patch=spec, activity_on="off", target_to_accompaniment_db=(19.0, 20.0))
    (tmp_path / "scratch").mkdir()
    levels = PatchMaker(config).track(only_track(tmp_path / "corpus", config), tmp_path / "scratch").rms
    assert 17 < 20 * np.log10(levels["mixture"] / levels["accompaniment"]) < 20.5


def test_activity_decides_per_signal_and_both_store_what_either_keeps(tmp_path):
    # 36 s: vocals sing up to 12 s, the others play from 27 s on; all but silence elsewhere.
    stems = {name: 1e-4 * noise(seed, 36 * RATE) for seed, name in enumerate(STEMS)}
    stems["vocals"][: 12 * RATE] = noise(8, 12 * RATE)
    for name in STEMS[1:]:
        stems[name][27 * RATE :] = noise(9, 9 * RATE)
    write_song(tmp_path / "corpus" / "train" / "Song", stems)
    # Segments of 6 s begin every 3 s, and are kept when half of them is active: up to 15 s, and from 24 s on.
    early, late = np.arange(0, 15, 0.5).tolist(), np.arange(24, 36, 0.5).tolist()
    # By the other rule chunks are kept that are active themselves.
    sung, played = np.arange(0, 12, 0.5).tolist(), np.arange(27, 36, 0.5).tolist()
    for (activity_on, detector), expected in {
        ("mixture", "band_split_rnn"): (early + late, late, early + late),
        ("target", "band_split_rnn"): (early, late, early + late),
        ("mixture", "top_db"): (sung + played, played, sung + played),
        ("off", "band_split_rnn"): (np.arange(0, 36, 0.5).tolist(),) * 3,
    }.items():
        config = DataConfig(patch=SPEC, activity_on=activity_on, activity_detector=detector)
        found = all_patches(only_track(tmp_path / "corpus", config), config, tmp_path / "scratch")
        for signal, kept in zip(("mixture", "accompaniment"), expected[:2], strict=True):
            starts, active, _, _ = found[signal]
            assert (starts[active] / RATE).tolist() == kept
            assert (starts / RATE).tolist() == expected[2]


def two_folders(tmp_path, waveform, subtype="FLOAT"):
    for name, signal in (("with", waveform), ("without", noise(1, 9000))):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a recording.wav", signal, RATE, subtype=subtype)
    source = Folders(tmp_path / "with", tmp_path / "without")
    track = next(track for track in find_tracks(source, ("vocals",), validation_share=0.14, seed=0) if track.mixture)
    (tmp_path / "scratch").mkdir()
    return track


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(9000), "a recording.wav: is silent"),
        (noise(0, 3999), "a recording.wav: is 0.50 s long, shorter than one clip of 0.50 s"),
        (np.full(9000, 1e8), "a recording.wav: has samples above 1e.06 times full scale"),
        (np.where(np.arange(9000) == 50, np.nan, 0.1), "a recording.wav"),
    ],
)
def test_unusable_recordings_are_named(tmp_path, waveform, message):
    track = two_folders(tmp_path, waveform)
    with pytest.raises((DataError, AudioError), match=message):
        PatchMaker(DataConfig(patch=SPEC)).track(track, tmp_path / "scratch")


@pytest.mark.parametrize("remains", [0, 1e-4, 0.02], ids=["nothing", "dither", "lossy"])
def test_channels_that_cancel_are_named_and_the_remedy_helps(tmp_path, remains):
    signal = 0.1 * noise(0, 9000)
    track = two_folders(tmp_path, np.stack([signal, -signal + remains * signal[::-1]], axis=1))
    with pytest.raises(DataError, match=r"a recording.wav: its two channels cancel .* swap the polarity") as error:
        PatchMaker(DataConfig(patch=SPEC)).track(track, tmp_path / "scratch")
    path = track.mixture.parts[0].path
    options = re.search(r"-af '(.*?)'", str(error.value))[1]
    mended = tmp_path / "mended.wav"
    subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-af", options, mended], check=True)
    shutil.move(mended, path)
    assert PatchMaker(DataConfig(patch=SPEC)).track(track, tmp_path / "scratch").num_samples == 9000


def test_wide_and_faint_recordings_are_not_taken_for_channels_that_cancel(tmp_path):
    one, other = 1e-3 * noise(0, 9000), 1e-3 * noise(1, 9000)
    for number, channels in enumerate(([one, other], [one, 0 * one], [one, -0.7 * one], [one, one])):
        folder = tmp_path / str(number)
        folder.mkdir()
        track = two_folders(folder, np.stack(channels, axis=1))
        assert PatchMaker(DataConfig(patch=SPEC)).track(track, folder / "scratch").num_samples == 9000


def test_a_recording_without_a_sample_at_the_rate_of_the_data_is_short_and_no_more(tmp_path):
    track = two_folders(tmp_path, 0.1 * np.ones((1, 2)))
    soundfile.write(track.mixture.parts[0].path, 0.1 * np.ones((1, 2)), 8 * RATE)
    with pytest.raises(DataError, match=r"shorter than one clip"):
        PatchMaker(DataConfig(patch=SPEC)).track(track, tmp_path / "scratch")


def test_values_beyond_float16_are_an_error_and_never_infinite(tmp_path):
    track = two_folders(tmp_path, 1000 * np.sin(np.arange(9000)))
    spec = PatchSpec(RATE, False, 4000, 256, 256, 64, level="reference")
    patches = PatchMaker(DataConfig(patch=spec)).track(track, tmp_path / "scratch").patches()
    with pytest.raises(DataError, match=r"a recording.wav: within .* 65504"):
        list(patches)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path):
    """Peak memory for 1 and for 5 minutes at 44.1 kHz: the difference is below half of the 42 MB of the additional samples."""
    script = """
import resource, sys
from pathlib import Path
from data_pipeline.patches import PatchMaker
from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.tracks import Folders, find_tracks
root = Path(sys.argv[1])
config = DataConfig(patch=PatchSpec(level="recording", hop_length=512))
maker = PatchMaker(config)
for name in ("short", "long"):
    tracks = find_tracks(Folders(root / name, root / "without"), ("vocals",), validation_share=0.5, seed=0)
    clips = 0
    for part in maker.track(next(track for track in tracks if track.mixture), root).patches():
        clips += len(part.starts)
    print(clips, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    block = (noise(0, 44_100 * 30) * 32768).astype(np.int16)
    for name, blocks in (("short", 2), ("long", 10), ("without", 1)):
        (tmp_path / name).mkdir()
        with soundfile.SoundFile(tmp_path / name / "recording.wav", "w", 44_100, 1) as file:
            for _ in range(blocks):
                file.write(block)
    result = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, capture_output=True, text=True)
    (short_clips, short_kb), (long_clips, long_kb) = (map(int, line.split()) for line in result.stdout.splitlines())
    assert long_clips >= 4 * short_clips > 0
    assert long_kb - short_kb < 20_000
