"""Comparison of two folders: planted differences are named, and the target itself is no reason to warn."""

import dataclasses
import json
import re

import numpy as np
import pytest
import scipy.signal
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from data_pipeline.discriminant import area_under_roc
from data_pipeline.folder_check import compare
from data_pipeline.patches import PatchMaker
from data_pipeline.prepare import prepare
from data_pipeline.recording_statistics import Statistics, StatisticsMeter
from data_pipeline.recordings import Part, Recording, Track
from data_pipeline.third_octaves import third_octaves
from data_pipeline.track_records import Job, is_finished, make_track, read_track
from data_pipeline.tracks import Folders

RATE = 16_000
VOCALS = ("vocals",)
SPEC = PatchSpec(
    sample_rate=RATE, clip_samples=4000, n_fft=512, win_length=512, hop_length=128, level="reference", dtype="float32"
)


def measure(samples, spec=SPEC):
    """Measure a recording, (samples,) or (channels, samples)."""
    samples = np.atleast_2d(samples)
    num_clips = samples.shape[1] // spec.clip_samples
    clips = samples[:, : num_clips * spec.clip_samples].reshape(len(samples), num_clips, -1).swapaxes(0, 1).astype(np.float32)
    maker, meter = PatchMaker(DataConfig(patch=spec)), StatisticsMeter(spec, num_clips)
    for first in range(0, num_clips, 8):
        run = clips[first : first + 8]
        meter.add(maker.stft(run), np.ones(len(run), np.float32), np.ones(len(run), bool))
    return meter.result()


def song(seed, target=False, seconds=8):
    """Synthesize noise with a spectrum as of music, and a random level; the target is an intermittent band around 1 kHz."""
    generator = np.random.default_rng([target, seed])
    noise = generator.normal(size=seconds * RATE)
    colour = scipy.signal.firwin2(129, np.linspace(0, 1, 9), 10 ** (generator.normal(0, 2, 9) / 20))
    samples = 0.05 * 10 ** (generator.normal(0, 1) / 20) * scipy.signal.lfilter(colour, [1.0, -0.9], noise)
    if target:
        band = scipy.signal.butter(2, [700, 1400], "band", fs=RATE)
        playing = np.repeat(generator.random(4 * seconds) < 0.6, RATE // 4)
        sung = playing * scipy.signal.lfilter(*band, generator.normal(size=len(samples)))
        samples = samples + sung * samples.std() / sung.std()
    return samples


@pytest.fixture(scope="module")
def mixtures():
    return {f"mixture {seed}": measure(song(seed, target=True)) for seed in range(16)}


@pytest.fixture(scope="module")
def target_free():
    return positives(lambda samples: samples)


def positives(change):
    return {f"positive {seed}": measure(change(song(seed))) for seed in range(16)}


def test_level_bandwidth_and_silence_by_hand():
    seconds = np.arange(8 * RATE) / RATE
    found = measure(0.5 * np.sin(2 * np.pi * 1000 * seconds) + 1e-4 * np.random.default_rng(0).normal(size=len(seconds)))
    assert found.level_db == pytest.approx(10 * np.log10(0.125), abs=0.05)
    band = np.argmax(found.spectrum_db)
    bands = third_octaves(SPEC, lowest=-13)
    assert np.unique(bands)[band] == 0, "the band around 1 kHz"
    assert found.spectrum_db[band] == pytest.approx(0, abs=0.15)
    assert found.silent_share == 0
    noise = np.random.default_rng(0).normal(size=len(seconds))
    assert measure(noise).bandwidth_hz == RATE / 2
    low_passed = scipy.signal.sosfiltfilt(scipy.signal.ellip(10, 0.1, 80, 5000, fs=RATE, output="sos"), noise)
    assert measure(low_passed).bandwidth_hz == pytest.approx(5000, abs=2 * RATE / 128)
    # A quarter of the clips, and the frames at their edges are not silent.
    assert measure(noise * (np.arange(len(noise)) // 4000 % 4 > 0)).silent_share == pytest.approx(0.25, abs=0.1)
    assert measure(np.zeros(8 * RATE)) is None


def clicks(every_s, seconds=8):
    """Clicks of 5 ms of noise, above very soft noise."""
    at = np.arange(seconds * RATE)
    noise = np.random.default_rng(0).normal(size=len(at))
    return noise * np.where((at - RATE // 8) % int(every_s * RATE) < 80, 1, 1e-3)


def chord(seconds=8):
    """A chord that sounds all the time, above soft noise."""
    at, noise = np.arange(seconds * RATE), np.random.default_rng(1).normal(size=seconds * RATE)
    return sum(np.sin(2 * np.pi * hz * at / RATE) for hz in (220, 277, 330, 440)) + 0.03 * noise


SONG = dataclasses.replace(SPEC, clip_samples=RATE)


def test_percussion_onsets_and_modulation_by_hand():
    found, held = measure(clicks(0.25), SONG), measure(chord(), SONG)
    assert found.percussive_share > 0.9 > 0.2 > held.percussive_share
    assert found.onsets_per_s == pytest.approx(4, abs=0.5)
    assert held.onsets_per_s == 0
    assert found.modulation_db > 10 > 4 > held.modulation_db
    both = measure(clicks(0.25) / clicks(0.25).std() + chord() / chord().std(), SONG)
    assert both.percussive_share == pytest.approx(0.5, abs=0.1)


def test_loudness_range_and_width_by_hand():
    louder = chord(60) * np.where(np.arange(60 * RATE) < 30 * RATE, 0.1, 1)
    assert measure(louder, SONG).loudness_range_db == pytest.approx(20, abs=1)
    assert measure(chord(), SONG).width_db is None
    stereo = dataclasses.replace(SONG, stereo=True)
    left, right = np.random.default_rng(0).normal(size=(2, 8 * RATE))
    for channels, width_db in (
        ((left, right), 0),
        ((left, left), -30),
        ((left, -left), 30),
        ((left + right, left - right), 0),
        ((left, 0.5 * left), -9.5),
    ):
        assert measure(np.stack(channels), stereo).width_db == pytest.approx(width_db, abs=0.3)


def test_the_quiet_moments_are_those_of_the_accompaniment():
    # A target that rests every other quarter of a second changes its band little, however loud it is.
    accompaniment = song(0)
    band = scipy.signal.butter(2, [700, 1400], "band", fs=RATE)
    loud = 10 * scipy.signal.lfilter(*band, np.random.default_rng(1).normal(size=len(accompaniment)))
    playing = np.arange(len(accompaniment)) // (RATE // 4) % 2
    alone, mixture = (np.array(measure(each, SONG).quiet) for each in (accompaniment, accompaniment + playing * loud))
    always = np.array(measure(accompaniment + loud, SONG).quiet)
    assert np.abs(mixture - alone).max() < 4 < 20 < np.abs(always - alone).max()


def test_silence_is_no_quiet_moment_and_clips_may_have_any_length():
    samples = song(0, seconds=60)
    whole, gaps = measure(samples, SONG), measure(samples * (np.arange(len(samples)) % RATE > 0.2 * RATE), SONG)
    np.testing.assert_allclose(np.mean(gaps.quiet, 0), np.mean(whole.quiet, 0), atol=2)
    assert measure(samples * (np.arange(len(samples)) > 20 * RATE), SONG).loudness_range_db < 3
    for clip_s, num_groups in ((0.5, 4), (4, 5), (60, 1)):
        found = measure(samples, dataclasses.replace(SPEC, clip_samples=int(clip_s * RATE)))
        assert len(found.quiet) == num_groups
        assert (found.loudness_range_db is None) == (clip_s > 1)


def test_levels_that_were_divided_out_are_put_back():
    samples = song(0)[: 3 * 8 * SPEC.clip_samples]
    clips = samples.reshape(-1, 1, SPEC.clip_samples).astype(np.float32)[:8]
    maker = PatchMaker(DataConfig(patch=SPEC))
    found = []
    for levels in (np.ones(8, np.float32), np.linspace(0.01, 3, 8, dtype=np.float32)):
        meter = StatisticsMeter(SPEC, 8)
        meter.add(maker.stft(clips / levels[:, None, None]), levels, np.arange(8) > 1)
        found.append(meter.result())
    assert found[0].level_db == found[1].level_db
    np.testing.assert_allclose(found[0].spectrum_db, found[1].spectrum_db, atol=0.11)


def test_a_target_is_no_reason_to_warn(mixtures, target_free):
    found = compare(mixtures, target_free, SPEC, VOCALS)
    assert found["warnings"] == []
    assert found["recordings"] == {"unlabeled": 16, "positive": 16}
    assert 1 < found["means"]["level_db"]["unlabeled"] - found["means"]["level_db"]["positive"] < 3
    json.dumps(found)


def filtered(*design, **options):
    return lambda samples: scipy.signal.sosfilt(scipy.signal.butter(*design, fs=RATE, output="sos", **options), samples)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda samples: samples / 4, "by the level alone. Use --data.patch.level recording"),
        (lambda samples: samples * 2, "by the level alone"),
        (
            lambda samples: scipy.signal.sosfiltfilt(
                scipy.signal.ellip(10, 0.1, 80, 5000, fs=RATE, output="sos"), samples
            ),
            "reach up to 5.0 kHz, those with it up to 8.0 kHz, as after MP3 coding or resampling",
        ),
        (lambda samples: samples * (np.arange(len(samples)) > 0.3 * len(samples)), "without the target are silent for 3"),
        (filtered(3, 250, btype="high"), "have less power than those with it"),
        (lambda samples: 0.3 * (samples + 4 * filtered(2, [3000, 5000], btype="band")(samples)), "No target explains that"),
    ],
    ids=["quiet", "loud", "low-pass", "silence", "high-pass", "boost"],
)  # fmt: skip
def test_other_differences_are_named_with_a_remedy(mixtures, change, words):
    found = compare(mixtures, positives(change), SPEC, VOCALS)
    assert any(words in warning for warning in found["warnings"]), found["warnings"]


def coloured(samples):
    """With another balance of bands than any of the songs, by less than a band has to differ."""
    colour = scipy.signal.firwin2(129, np.linspace(0, 1, 9), 10 ** (np.array([0, 0, -5, 5, -5, 5, -5, 5, 0]) / 20))
    return scipy.signal.lfilter(colour, [1.0], samples)


def test_a_mismatch_is_named_if_the_target_rests_now_and_then(mixtures):
    found = compare(mixtures, positives(coloured), SPEC, VOCALS)
    (warning,) = found["warnings"]
    assert found["quiet_auc"] > 0.9
    assert warning.startswith("Even in quiet moments, when vocals usually rest")
    assert re.search(r"ranks (9\d|100)% of the pairs.* \d+ dB (less|more) power around [\d.]+ k?Hz.*Mark passages", warning)
    # Drums may sound in every quiet moment of every song: then the target explains all of it.
    assert compare(mixtures, positives(coloured), SPEC, ("drums",))["warnings"] == []


def test_treble_that_only_the_target_has_is_no_reason_to_warn():
    """As cymbals at 44.1 kHz, which lie 20 dB above all else there; treble of target-free recordings has no such excuse."""
    spec = dataclasses.replace(SPEC, sample_rate=44_100)
    cymbals = scipy.signal.butter(4, 9000, "high", fs=44_100, output="sos")

    def with_cymbals(samples):
        struck = scipy.signal.sosfilt(cymbals, np.random.default_rng(0).normal(size=len(samples)))
        return samples + samples.std() / struck.std() * struck

    plain = {f"plain {seed}": measure(song(seed), spec) for seed in range(16)}
    struck = {f"struck {seed}": measure(with_cymbals(song(seed)), spec) for seed in range(16, 32)}
    assert compare(struck, plain, spec, ("drums",))["warnings"] == []
    assert "more power than those with it" in " ".join(compare(plain, struck, spec, ("drums",))["warnings"])


def test_what_few_targets_explain_is_named_for_any_target(mixtures):
    struck = {str(number): measure(clicks(0.1 + 0.01 * number), SPEC) for number in range(6)}
    warnings = compare(mixtures, struck, SPEC, ("guitar",))["warnings"]
    assert any(
        re.search(r"have more percussion \((9\d|100)% of the power, against \d+%\), more onsets .* Few targets", text)
        for text in warnings
    )


def test_equal_scores_count_half():
    assert area_under_roc(np.zeros(7), 3) == 0.5
    assert area_under_roc(np.array([2.0, 1, 0, 0]), 2) == 1


def test_nobody_is_warned_of_a_band_that_nobody_hears():
    spec = dataclasses.replace(SPEC, clip_samples=16_000, n_fft=4096, win_length=4096, hop_length=1024, level="recording")
    for frequency_hz, num_warnings in ((20, 0), (60, 2)):
        hum = 0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(8 * RATE) / RATE)
        unlabeled = {f"mixture {seed}": measure(song(seed, target=True), spec) for seed in range(8)}
        positive = {f"positive {seed}": measure(song(seed) + hum, spec) for seed in range(8)}
        assert len(compare(unlabeled, positive, spec, VOCALS)["warnings"]) == num_warnings


def test_the_level_does_not_matter_where_recordings_are_scaled(mixtures):
    scaled = dataclasses.replace(SPEC, level="recording")
    assert compare(mixtures, positives(lambda samples: samples / 4), scaled, VOCALS)["warnings"] == []


def test_a_difference_has_to_stand_out_of_the_spread(mixtures):
    generator = np.random.default_rng(0)
    uneven = positives(lambda samples: samples * 10 ** (generator.uniform(-30, 10) / 20))
    assert compare(mixtures, uneven, SPEC, VOCALS)["warnings"] == []
    few = dict(list(positives(lambda samples: samples / 4).items())[:2])
    assert compare(mixtures, few, SPEC, VOCALS) == {
        "warnings": [], "means": {}, "recordings": {"unlabeled": 16, "positive": 2}, "quiet_auc": None
    }  # fmt: skip


def test_bandwidths_form_two_clusters_if_some_recordings_have_nothing_above_the_low_pass(mixtures):
    def recordings(bandwidths_hz):
        template = next(iter(mixtures.values()))
        return {str(number): dataclasses.replace(template, bandwidth_hz=hz) for number, hz in enumerate(bandwidths_hz)}

    (warning,) = compare(recordings([8000.0] * 8), recordings([5000.0] * 6 + [8000.0] * 2), SPEC, VOCALS)["warnings"]
    assert "reach up to 5.0 kHz" in warning
    assert warning.endswith("--data.patch.sample-rate 9000.")
    for lowest_hz, remedy in ((1000.0, "--data.patch.sample-rate 1200."), (150.0, "Take both from the same format.")):
        (warning,) = compare(recordings([8000.0] * 8), recordings([lowest_hz] * 8), SPEC, VOCALS)["warnings"]
        assert warning.endswith(remedy)
    assert compare(recordings([8000.0] * 8), recordings([5000.0] * 3 + [8000.0] * 5), SPEC, VOCALS)["warnings"] == []


def test_prepare_warns_and_stores_the_comparison(tmp_path, capfd):
    for folder, target, gain in (("with", True, 1.0), ("without", False, 0.2)):
        (tmp_path / folder).mkdir()
        for seed in range(4):
            soundfile.write(tmp_path / folder / f"{seed}.wav", gain * song(seed, target, seconds=4), RATE)
    source = Folders(tmp_path / "with", tmp_path / "without")
    config = DataConfig(patch=dataclasses.replace(SPEC, dtype="float16"), activity_on="off")
    dataset = prepare(source, config, tmp_path / "data", num_workers=1)
    (warning,) = dataset.info["comparison"]["warnings"]
    assert "by the level alone" in warning
    assert f"Warning: {warning}" in capfd.readouterr().out
    level_db = dataset.info["comparison"]["means"]["level_db"]
    expected = np.mean([20 * np.log10(0.2 * song(seed, seconds=4).std()) for seed in range(4)])
    assert level_db["positive"] == pytest.approx(expected, abs=0.3)


def test_statistics_survive_json(mixtures):
    first = next(iter(mixtures.values()))
    assert Statistics(**json.loads(json.dumps(dataclasses.asdict(first)))) == first


def test_a_track_that_an_earlier_version_measured_is_made_again(tmp_path):
    soundfile.write(tmp_path / "song.wav", song(0), RATE)
    recording = Recording("song", tmp_path, (Part(tmp_path / "song.wav"),))
    job = Job(0, "key", Track("song", "train", recording, None))
    assert make_track(job, DataConfig(patch=dataclasses.replace(SPEC, dtype="float16")), tmp_path) is None
    assert is_finished(tmp_path / "key")
    assert read_track(job, tmp_path).statistics.onsets_per_s >= 0
    result = json.loads((tmp_path / "key" / "result.json").read_text())
    del result["statistics"]["onsets_per_s"]
    (tmp_path / "key" / "result.json").write_text(json.dumps(result))
    assert not is_finished(tmp_path / "key")
