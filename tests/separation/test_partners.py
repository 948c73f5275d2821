"""Remixes at use: which positives, at which level, and what they do to the mask."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from data_pipeline.audio import AudioError
from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.config import BootstrapConfig, Config, PatchCNNConfig, PNUConfig, RemixConfig, SupervisedConfig, TrainConfig
from jaxpu.core.models import make_model
from jaxpu.core.network import TrainedModel, make_mask_fn
from jaxpu.core.stft import istft, stft
from jaxpu.separation.files import separate_waveform
from jaxpu.separation.partners import MAX_RECORDINGS, PASSAGE_S, Partners, load_partners

RATE = 8000


def make_trained_model(objective=None, **patch) -> TrainedModel:
    """A network with random parameters."""
    settings = {"sample_rate": RATE, "n_fft": 256, "win_length": 256, "hop_length": 64, "level": "reference", **patch}
    config = Config(
        data=DataConfig(patch=PatchSpec(**settings)),
        model=PatchCNNConfig(channels=3, growth=1, blocks=1, features="log"),
        objective=objective or RemixConfig(),
        train=TrainConfig(ema_decay=0.9, num_steps=500),
    )
    network = make_model(config.model, config.data.patch, num_outputs=1, dtype=jnp.float32)
    nothing = jnp.zeros((1, 4, config.data.patch.bins), jnp.complex64)
    variables = network.init(jax.random.key(0), nothing, jnp.zeros(1, jnp.int32), train=False)
    return TrainedModel(config, jax.tree.map(lambda x: 8 * x, variables), {})


def noise(num_samples: int, seed: int = 0, num_channels: int = 1) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal((num_channels, num_samples))).astype(np.float32)


def write(path: Path, waveform: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform.T, rate, subtype="FLOAT")


class Periodic(Partners):
    """Patterns of one hop each, so that it does not matter where a chunk begins."""

    def draw(self, first_sample: int, num_samples: int) -> np.ndarray:
        assert first_sample % len(self.passages[0]) == 0
        return np.stack([np.resize(passage, num_samples) for passage in self.passages])


def test_the_mask_is_the_mean_over_the_remixes() -> None:
    model = make_trained_model()
    patch, mask_fn = model.config.data.patch, make_mask_fn(model.config)
    mixture = noise(2 * RATE, num_channels=2)
    partners = Periodic((noise(patch.hop_length, 1)[0], noise(patch.hop_length, 2)[0]), num_remixes=2)
    added = partners.draw(0, 2 * RATE)[:, None]
    spectrum, heard = stft(mixture, patch), stft(mixture.mean(0, keepdims=True), patch)
    masks = [np.asarray(mask_fn(model.variables, heard + stft(other, patch))) for other in added]
    assert np.abs(masks[0] - masks[1]).mean() > 0.03
    expected = np.asarray(istft((masks[0] + masks[1]) / 2 * spectrum, patch, 2 * RATE))
    found = separate_waveform(model, mixture, RATE, chunk_s=0.5, partners=partners)
    inner = slice(8 * patch.n_fft, -8 * patch.n_fft)  # At the edges the mixture is reflected here, and the remix above.
    np.testing.assert_allclose(found[:, inner], expected[:, inner], atol=1e-5)
    assert np.abs(found - separate_waveform(model, mixture, RATE))[:, inner].max() > 1e-2


def test_positives_are_drawn_by_position_and_repeated_where_they_are_short() -> None:
    partners = Partners((np.arange(1, 6, dtype=np.float32),), num_remixes=2)
    drawn = partners.draw(640, 12)
    assert drawn.shape == (2, 12)
    np.testing.assert_array_equal(drawn, partners.draw(640, 12))
    assert not np.array_equal(drawn, partners.draw(1280, 12))
    np.testing.assert_array_equal(drawn[:, 5:10], drawn[:, :5])
    np.testing.assert_array_equal(np.sort(drawn[:, :5]), [[1, 2, 3, 4, 5]] * 2)


def test_passages_have_the_rate_and_level_of_the_model(tmp_path: Path) -> None:
    waveform = noise(2 * RATE, num_channels=2)
    write(tmp_path / "inner" / "a.wav", waveform)
    (passage,) = load_partners(make_trained_model(), tmp_path).passages
    np.testing.assert_allclose(passage, waveform.mean(0), atol=1e-6)
    (quieter,) = load_partners(make_trained_model(RemixConfig(positive_gain_db=-6.0)), tmp_path).passages
    np.testing.assert_allclose(quieter, passage * 10 ** (-6 / 20), atol=1e-6)
    (levelled,) = load_partners(make_trained_model(level="recording"), tmp_path).passages
    np.testing.assert_allclose([levelled.mean(), levelled.std(ddof=1)], [0, 1], atol=1e-5)
    (resampled,) = load_partners(make_trained_model(sample_rate=2 * RATE), tmp_path).passages
    assert len(resampled) == 4 * RATE


def test_long_recordings_and_large_folders_are_thinned_out(tmp_path: Path) -> None:
    length = round((PASSAGE_S + 2) * RATE)
    write(tmp_path / "000.wav", np.linspace(-0.5, 0.5, length, dtype=np.float32)[None])
    for number in range(1, MAX_RECORDINGS + 8):
        write(tmp_path / f"{number:03}.wav", np.full((1, 300), number / 100, np.float32))
    passages = load_partners(make_trained_model(), tmp_path).passages
    assert len(passages) == MAX_RECORDINGS
    assert len(passages[0]) == round(PASSAGE_S * RATE)
    assert passages[0].mean() == pytest.approx(0, abs=1e-3)  # The middle.
    assert passages[-1][0] > 0.3  # From the last files too.


def test_what_cannot_be_remixed(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="is an empty folder"):
        load_partners(make_trained_model(), tmp_path)
    write(tmp_path / "a.wav", noise(RATE))
    load_partners(make_trained_model(PNUConfig()), tmp_path)
    for objective in (BootstrapConfig(), SupervisedConfig()):
        with pytest.raises(ValueError, match=f"objective is {type(objective).__name__}; .* Leave positives out"):
            load_partners(make_trained_model(objective), tmp_path)
    with pytest.raises(ValueError, match="num_remixes is 0; it must be positive"):
        load_partners(make_trained_model(), tmp_path, num_remixes=0)
    assert dataclasses.replace(load_partners(make_trained_model(), tmp_path), num_remixes=2).num_remixes == 2
