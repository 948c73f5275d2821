"""The class prior on data where it is known, and the runs and commands that use it."""

import dataclasses
import json
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import DataError
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Folders, Musdb18HQ
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.cli.__main__ import main
from jaxpu.config import BrierPUConfig, Config, ConfigError, PatchCNNConfig, PUConfig, RemixConfig, TrainConfig
from jaxpu.config_files import from_json, to_json
from jaxpu.core.objectives import make_objective
from jaxpu.estimation import class_prior, histograms, positive_gain
from jaxpu.training.loop import train

RATE = 8000
DATA = DataConfig(
    patch=PatchSpec(sample_rate=RATE, clip_samples=2048, n_fft=128, win_length=128, hop_length=64, level="reference"),
    activity_on="off",
    validation_share=0.4,
)
CONFIG = Config(
    data=DATA,
    model=PatchCNNConfig(channels=2, blocks=0, features="log"),
    objective=PUConfig(class_prior="estimate", mask="soft"),
    train=TrainConfig(num_steps=2, eval_every=1, eval_batches=1, batch_size=8),
)


def magnitudes(generator, num_bins, deviation):
    """Complex bins of a level that varies, as that of music does."""
    level = deviation * 10 ** (generator.normal(0, 10, num_bins) / 20)
    return level * (generator.normal(size=num_bins) + 1j * generator.normal(size=num_bins))


def histogram(values):
    edges = histograms.LOWEST_DB + histograms.STEP_DB * np.arange(histograms.NUM_LEVELS + 1)
    return np.histogram(20 * np.log10(np.abs(values)), edges)[0][None].astype(float)


@pytest.mark.parametrize("target_level", [0.3, 1.0, 3.0])
@pytest.mark.parametrize(("mix", "tolerance"), [("louder", 0.01), ("sum", 0.05)])
def test_log_max_finds_a_known_share(target_level, mix, tolerance):
    generator = np.random.default_rng(0)
    num_bins = 100_000
    target, accompaniment, positive = (magnitudes(generator, num_bins, level) for level in (target_level, 1.0, 1.0))
    active = np.abs(target) > np.abs(accompaniment)
    mixture = np.where(active, target, accompaniment) if mix == "louder" else target + accompaniment
    found = class_prior._log_max(histogram(mixture), histogram(positive), np.zeros(1, int), 1.0, 1.0)
    weight = np.abs(mixture)
    assert found[1] == pytest.approx(weight[~active].sum() / weight.sum(), abs=tolerance)
    assert found[2] == pytest.approx(1 - active.mean(), abs=tolerance)


def test_class_prior_is_what_the_loss_sums():
    """Positives of twice the weight need half the class prior: E_U[w; inactive] = prior * E_P[w]."""
    weighted, unweighted = np.array([[3.0, 10.0], [6.0, 10.0]]), np.array([[40.0, 50.0], [30.0, 50.0]])
    shares = class_prior._in_order(weighted, unweighted, np.array([0, 1]), 0.5)
    np.testing.assert_allclose(shares, [0.225, 0.45, 0.7, 0.3, 0.6, 0.8, 0.6])
    assert class_prior._in_order(weighted, unweighted, np.array([0, 0]), 3.0)[0] == 0.99


def test_bands_are_third_octaves_within_octaves():
    spec = PatchSpec(sample_rate=44_100, n_fft=4096, win_length=4096)
    band_of_bin, octave_of_band = histograms.bands_and_octaves(spec)
    frequencies = np.arange(spec.bins) * spec.sample_rate / spec.n_fft
    assert band_of_bin[0] == 0
    assert set(np.diff(band_of_bin)) == {0, 1}
    assert set(np.diff(octave_of_band)) == {0, 1}
    octave = octave_of_band[band_of_bin]
    assert np.array_equal(octave == octave[np.searchsorted(frequencies, 1000)], (frequencies > 707.1) & (frequencies < 1414.2))
    assert np.bincount(octave_of_band)[3] == 3
    assert histograms.octaves_hz(DATA.patch) == [
        (0.0, 62.5), (125.0, 125.0), (187.5, 312.5), (375.0, 687.5), (750.0, 1375.0), (1437.5, 2812.5), (2875.0, 4000.0)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten songs of five seconds: vocals and bass are noises whose level jumps; the vocals are silent for half of the time."""
    root = tmp_path_factory.mktemp("corpus")
    for song in range(10):
        generator = np.random.default_rng([3, song])
        folder = root / "train" / f"Song {song}"
        folder.mkdir(parents=True)
        levels = {"vocals": 0.02 * (generator.random(100) < 0.5), "drums": 0.0, "bass": 0.02, "other": 0.0}
        stems = {}
        for name in STEMS:
            jumps = np.repeat(levels[name] * 10 ** (generator.normal(0, 6, 100) / 20), RATE // 20)
            stems[name] = jumps * generator.normal(size=len(jumps))
        for name, samples in (stems | {"mixture": sum(stems.values())}).items():
            soundfile.write(folder / f"{name}.wav", samples, RATE, subtype="FLOAT")
    return root


@pytest.fixture(scope="module")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    return prepare(Musdb18HQ(corpus), DATA, tmp_path_factory.mktemp("data"), num_workers=1, progress=False)


def together(config=CONFIG):
    """Mixtures and positives of all tracks, so that every clip is looked at."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, disjoint_tracks=False))


def test_the_oracle_is_the_share_in_the_stems_spectra(corpus, dataset):
    inactive, weight = [], []
    for track in dataset.tracks("train"):
        read = {name: soundfile.read(corpus / "train" / track.name / f"{name}.wav")[0] for name in ("mixture", "vocals")}
        for start in range(0, track.clips * 2048, 2048):
            mixture, vocals = (
                librosa.stft(samples[start : start + 2048], n_fft=128, hop_length=64, window="hamming", pad_mode="reflect")
                for samples in read.values()
            )
            inactive.append(np.abs(mixture - vocals) > np.abs(vocals))
            weight.append(np.abs(mixture))
    shares = class_prior.oracle(dataset, together())
    # 114 clips are drawn in batches of 16: some of them count twice.
    assert shares.unweighted.value == pytest.approx(np.mean(inactive), abs=0.02)
    assert shares.weighted.value == pytest.approx(np.sum(np.array(inactive) * weight) / np.sum(weight), abs=0.02)
    assert shares.unweighted.low is None
    assert len(shares.weighted_bands) == len(shares.unweighted_bands) == 7


def test_the_estimate_is_near_the_oracle_and_does_not_know_the_stems(dataset, monkeypatch):
    truth = class_prior.oracle(dataset, together())
    monkeypatch.setattr(class_prior, "oracle", None)
    found = class_prior.estimate(dataset, together())
    for name in ("weighted", "unweighted", "class_prior"):
        value, estimate = getattr(truth, name).value, getattr(found, name)
        assert estimate.value == pytest.approx(value, abs=0.06), name
        assert estimate.low < estimate.value < estimate.high
    assert (found.unlabeled_tracks, found.positive_tracks) == (6, 6)
    assert found == class_prior.estimate(dataset, together())
    apart = class_prior.estimate(dataset, CONFIG)
    assert (apart.unlabeled_tracks, apart.positive_tracks) == (3, 3)
    assert apart.weighted.value == pytest.approx(truth.weighted.value, abs=0.15)


def test_scaling_every_clip_does_not_hide_the_level_of_a_source_with_stems(corpus, dataset, tmp_path):
    by_clip = dataclasses.replace(DATA, patch=dataclasses.replace(DATA.patch, level="clip"))
    scaled = prepare(Musdb18HQ(corpus), by_clip, tmp_path, num_workers=1, progress=False)
    found, expected = (class_prior.estimate(each, CONFIG) for each in (scaled, dataset))
    assert found.unweighted.value == pytest.approx(expected.unweighted.value, abs=0.01)
    # The loss sees scaled clips: there positives weigh as much as mixtures.
    assert found.class_prior.value == pytest.approx(found.weighted.value, abs=0.05)
    assert expected.class_prior.value > expected.weighted.value + 0.1


def test_the_gain_of_positives_follows_their_level(dataset, monkeypatch):
    """The vocals are as wide as the bass, in every band for half of the time: then the estimate is too high, but not by much."""
    read_histograms = histograms.read_histograms

    def at(offset_db):
        def shifted(*args, **kwargs):
            unlabeled, positive = read_histograms(*args, **kwargs)
            moved = {track: np.roll(each, int(2 * offset_db), axis=-1) for track, each in positive.magnitudes.items()}
            return unlabeled, dataclasses.replace(positive, magnitudes=moved)

        monkeypatch.setattr(histograms, "read_histograms", shifted)
        return positive_gain.estimate_gain_db(dataset, together())

    same, hot, cold = at(0.0), at(5.0), at(-6.0)
    assert 0 < same.value < 2.5
    assert same.low < same.value < same.high
    assert hot.value == pytest.approx(same.value - 5, abs=0.01)
    assert cold.value == pytest.approx(same.value + 6, abs=0.01)


@pytest.mark.parametrize("kind", [PUConfig, BrierPUConfig])
def test_estimate_is_a_class_prior_that_stays_a_word_until_training(kind):
    config = dataclasses.replace(CONFIG, objective=kind(class_prior="estimate"))
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    with pytest.raises(ConfigError, match=r"^\w+\.class_prior is 'estimate', which becomes a number"):
        make_objective(config.objective)
    with pytest.raises(ConfigError, match=r"class_prior is 'guess'; it must be .* or 'estimate'\.$"):
        kind(class_prior="guess")
    assert make_objective(kind(class_prior=0.7)).hyperparameters["class_prior"] == 0.7


@pytest.mark.slow
def test_a_run_estimates_once_and_keeps_what_it_found(dataset, tmp_path, monkeypatch, capsys):
    train(CONFIG, dataset.directory, tmp_path / "run")
    found = json.loads((tmp_path / "run" / "estimates.json").read_text())
    value = class_prior.estimate(dataset, CONFIG).class_prior.value
    assert found["class_prior"]["number"] == value
    assert f"Class prior: {value:.2f} [" in capsys.readouterr().out
    model = load_model(tmp_path / "run")
    assert model.config.objective == dataclasses.replace(CONFIG.objective, class_prior=value)
    assert model.info["estimates"] == found
    # The stored config is the one that was asked for; a resumed run reads the estimate.
    assert json.loads((tmp_path / "run" / "config.json").read_text())["objective"]["class_prior"] == "estimate"
    monkeypatch.setattr(class_prior, "estimate", None)
    assert train(CONFIG, dataset.directory, tmp_path / "run", progress=False)["step"] == 2


@pytest.mark.slow
def test_a_run_estimates_the_gain_of_the_positives(dataset, tmp_path, capsys):
    config = dataclasses.replace(CONFIG, objective=RemixConfig(positive_gain_db="estimate"))
    train(config, dataset.directory, tmp_path)
    gain = positive_gain.estimate_gain_db(dataset, config)
    assert gain.low < gain.value < gain.high
    assert load_model(tmp_path).config.objective.positive_gain_db == gain.value
    assert f"Gain of the positives: {gain.value:+.1f} [" in capsys.readouterr().out


def test_the_command(dataset, corpus, tmp_path, capsys):
    arguments = ["estimate-prior", str(dataset.directory), "demo_pu", "-o", str(tmp_path / "prior.json")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "from stems" in printed
    assert "1438 to 2812 Hz, unweighted" in printed
    written = json.loads((tmp_path / "prior.json").read_text())
    assert set(written) == {"data_fingerprint", "weight_exponent", "octaves_hz", "oracle", "log_max"}
    assert main([*arguments, "--data.patch.window", "hann"]) == 1
    assert "window" in capsys.readouterr().err


def test_two_folders_have_no_oracle_and_a_caution(corpus, tmp_path, capsys):
    for folder, stem, songs in (("with", "mixture", range(4)), ("without", "bass", range(4, 8))):
        (tmp_path / folder).mkdir()
        for song in songs:
            (tmp_path / folder / f"{song}.wav").symlink_to(corpus / "train" / f"Song {song}" / f"{stem}.wav")
    source = Folders(tmp_path / "with", tmp_path / "without")
    dataset = prepare(source, DATA, tmp_path / "data", num_workers=1, progress=False)
    with pytest.raises(DataError, match="has no targets"):
        class_prior.oracle(dataset, CONFIG)
    assert main(["estimate-prior", str(tmp_path / "data")]) == 0
    printed = capsys.readouterr().out
    assert "from stems" not in printed
    assert "without stems share no level" in printed
