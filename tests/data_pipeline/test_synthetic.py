"""Synthetic corpus: its files, and that a simple filter does not separate its songs."""

import json

import numpy as np
import pytest
import scipy.io.wavfile
import scipy.signal

from data_pipeline.config import STEMS
from data_pipeline.errors import CorpusError
from data_pipeline.synthetic.songs import render_song, synthesize

RATE, N_FFT, HOP = 16_000, 1024, 256
VOICE_OCTAVES_HZ = 88.4 * 2.0 ** np.arange(7)  # Six octaves: from 88 Hz up to 5.7 kHz.


def spectrum(signal):
    return scipy.signal.stft(signal, nperseg=N_FFT, noverlap=N_FFT - HOP, boundary="even")[2]


def waveform(stft, num_samples):
    return scipy.signal.istft(stft, nperseg=N_FFT, noverlap=N_FFT - HOP)[1][:num_samples]


def si_sdr(reference, estimate):
    target = (reference @ estimate) / (reference @ reference) * reference
    return 10 * np.log10(np.sum(target**2) / np.sum((estimate - target) ** 2))


def decibels(ratio):
    return 10 * np.log10(ratio)


def song(split, index):
    """Render vocals and accompaniment of a song of the default corpus, in [-1, 1]."""
    stems = {name: signal[0] / 32768 for name, signal in render_song(0, split, index).items()}
    return stems["vocals"], stems["drums"] + stems["bass"] + stems["other"]


@pytest.fixture(scope="module")
def songs():
    return {split: [song(split, index) for index in range(count)] for split, count in (("train", 4), ("test", 2))}


@pytest.mark.slow
def test_stems_sum_to_the_mixture_sample_for_sample(tmp_path):
    root = synthesize(tmp_path / "corpus", num_train=2, num_test=1, seconds=4.0, num_workers=2, progress=False)
    folders = sorted(path for path in root.glob("*/*") if path.is_dir())
    assert [str(folder.relative_to(root)) for folder in folders] == [
        "test/synthetic_test_000",
        "train/synthetic_train_000",
        "train/synthetic_train_001",
    ]
    for folder in folders:
        signals = {}
        for name in ("mixture", *STEMS):
            rate, signals[name] = scipy.io.wavfile.read(folder / f"{name}.wav")
            assert (rate, signals[name].dtype, signals[name].shape) == (RATE, np.int16, (4 * RATE,))
        np.testing.assert_array_equal(sum(signals[name].astype(int) for name in STEMS), signals["mixture"])
    assert not list(root.rglob(".partial*"))


def test_a_song_depends_on_seed_split_and_index_only(tmp_path):
    synthesize(tmp_path / "one", num_train=1, num_test=0, seconds=4.0, seed=5, num_workers=1, progress=False)
    _, written = scipy.io.wavfile.read(tmp_path / "one" / "train" / "synthetic_train_000" / "vocals.wav")
    np.testing.assert_array_equal(written, render_song(5, "train", 0, seconds=4.0)["vocals"][0])
    for other in ((6, "train", 0), (5, "test", 0), (5, "train", 1)):
        assert not np.array_equal(written, render_song(*other, seconds=4.0)["vocals"][0])


def test_running_again_makes_only_what_is_missing(tmp_path):
    arguments = {"num_train": 2, "num_test": 0, "seconds": 4.0, "num_workers": 1, "progress": False}
    root = synthesize(tmp_path, **arguments)
    kept, lost = (root / "train" / f"synthetic_train_00{index}" / "mixture.wav" for index in (0, 1))
    before = kept.stat().st_mtime_ns, lost.read_bytes()
    for path in lost.parent.iterdir():
        path.unlink()
    lost.parent.rmdir()
    synthesize(tmp_path, **arguments)
    assert (kept.stat().st_mtime_ns, lost.read_bytes()) == before


def test_another_corpus_in_the_folder_is_refused(tmp_path):
    synthesize(tmp_path, num_train=1, num_test=0, seconds=4.0, num_workers=1, progress=False)
    with pytest.raises(CorpusError, match=r"seed 0 \(asked for: 1\).*Remove it or choose another folder"):
        synthesize(tmp_path, num_train=1, num_test=0, seconds=4.0, seed=1, progress=False)
    (tmp_path / "synthetic.json").unlink()
    with pytest.raises(CorpusError, match="it is another corpus"):
        synthesize(tmp_path, num_train=1, num_test=0, seconds=4.0, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": 0, "num_test": 0}, "num_train is 0"),
        ({"num_train": 10**12}, "num_train is 1000000000000 and num_test is 4; each must lie between 0 and 100000"),
        ({"seconds": 1.0}, "seconds is 1.0"),
        ({"sample_rate": 100}, "sample_rate is 100"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_arguments_are_refused_by_name(tmp_path, arguments, message):
    with pytest.raises(CorpusError, match=message) as error:
        synthesize(tmp_path / "corpus", **arguments)
    assert error.value.exit_status == 2
    assert not (tmp_path / "corpus").exists()


def test_settings_are_stored(tmp_path):
    root = synthesize(tmp_path, num_train=0, num_test=1, seconds=4.0, seed=3, num_workers=1, progress=False)
    settings = json.loads((root / "synthetic.json").read_text())
    assert (settings["seed"], settings["num_test"], settings["sample_rate"]) == (3, 1, RATE)


@pytest.mark.parametrize("sample_rate", [8000, 44_100])
def test_stereo_and_other_rates(sample_rate):
    stems = render_song(1, "test", 0, seconds=4.0, sample_rate=sample_rate, stereo=True)
    assert set(stems) == set(STEMS)
    for name, signal in stems.items():
        assert signal.shape == (2, 4 * sample_rate)
        assert np.abs(signal.astype(int)).max() > 500, name
    assert not np.array_equal(stems["other"][0], stems["other"][1])
    assert np.abs(np.sum(list(stems.values()), axis=0, dtype=int)).max() <= 32767


def test_levels_and_vocal_activity(songs):
    for vocals, accompaniment in songs["train"] + songs["test"]:
        assert abs(decibels(np.mean(vocals**2) / np.mean(accompaniment**2))) < 2.6
        mixture = vocals + accompaniment
        assert -24 < decibels(np.mean(mixture**2)) < -17
        assert np.abs(mixture).max() < 1
        energies = np.mean(vocals[: len(vocals) // 1600 * 1600].reshape(-1, 1600) ** 2, axis=1)
        assert 0.5 < np.mean(energies > 1e-4 * energies.max()) < 0.9


def test_voice_and_accompaniment_overlap_in_every_octave(songs):
    frequencies = np.fft.rfftfreq(N_FFT, 1 / RATE)
    ratios = []
    for vocals, accompaniment in songs["train"]:
        power = [np.sum(np.abs(spectrum(signal)) ** 2, axis=1) for signal in (vocals, accompaniment)]
        bands = [(frequencies >= low) & (frequencies < 2 * low) for low in VOICE_OCTAVES_HZ]
        ratios.append([decibels(power[0][band].sum() / power[1][band].sum()) for band in bands])
    assert np.abs(np.mean(ratios, axis=0)).max() < 3
    assert np.abs(np.median(np.abs(ratios), axis=0)).max() < 5


def test_accompaniment_plays_while_the_voice_sings(songs):
    for vocals, accompaniment in songs["train"]:
        energies = [np.mean(s[: len(s) // 4000 * 4000].reshape(-1, 4000) ** 2, axis=1) for s in (vocals, accompaniment)]
        singing = energies[0] > 0.01 * np.mean(energies[0])
        assert np.mean(energies[1][singing] > 0.03 * np.mean(energies[1])) > 0.9


def test_a_fixed_filter_does_not_separate_but_an_oracle_mask_does(songs):
    cross, power = np.zeros(N_FFT // 2 + 1), np.zeros(N_FFT // 2 + 1)
    for vocals, accompaniment in songs["train"]:
        mixture = spectrum(vocals + accompaniment)
        cross += np.sum((spectrum(vocals) * mixture.conj()).real, axis=1)
        power += np.sum(np.abs(mixture) ** 2, axis=1)
    fixed = (cross / power)[:, None]
    gains = {"fixed": [], "oracle": []}
    for vocals, accompaniment in songs["test"]:
        mixture, target = vocals + accompaniment, np.abs(spectrum(vocals)) ** 2
        oracle = target / (target + np.abs(spectrum(accompaniment)) ** 2 + 1e-12)
        for name, mask in (("fixed", fixed), ("oracle", oracle)):
            estimate = waveform(mask * spectrum(mixture), len(mixture))
            gains[name].append(si_sdr(vocals, estimate) - si_sdr(vocals, mixture))
    assert np.mean(gains["fixed"]) < 1
    assert np.mean(gains["oracle"]) > 10


def test_the_voice_moves_in_pitch_and_the_instruments_do_not(songs):
    # A steady harmonic stays in its bin, so neighbouring frames of the accompaniment have the same strongest bins.
    def steadiness(signal):
        magnitude = np.abs(spectrum(signal))[48:256]  # 0.75 to 4 kHz
        before, after = magnitude[:, :-8], magnitude[:, 8:]
        loud = (before**2).sum(axis=0) > 0.1 * np.mean((magnitude**2).sum(axis=0))
        cosine = (before * after).sum(axis=0) / np.sqrt((before**2).sum(axis=0) * (after**2).sum(axis=0) + 1e-12)
        return np.mean(cosine[loud])

    voice, band = (np.mean([steadiness(pair[which]) for pair in songs["train"]]) for which in (0, 1))
    assert band > voice + 0.05
