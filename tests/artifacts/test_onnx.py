"""ONNX graphs: real jax2onnx and onnxruntime give the masks of the network."""

import dataclasses
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
import soundfile

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.artifacts import onnx
from jaxpu.artifacts.archive import ArchiveError
from jaxpu.artifacts.checkpoints import RunCheckpoints, load_model
from jaxpu.artifacts.export import export
from jaxpu.cli.__main__ import main
from jaxpu.config import BandSplitRNNConfig, Config, PatchCNNConfig, SupervisedConfig, TrainConfig, UNetConfig
from jaxpu.config.networks import ModelConfig
from jaxpu.core.network import TrainedModel, make_mask_fn
from jaxpu.core.step import init_state, separation_variables
from jaxpu.separation.files import separate_waveform

RATE = 8000
DESCRIPTION = "Made of noise by a test of jaxpu; nobody's rights are touched."

U_NET = UNetConfig(channels=(4, 6), dilations=(1, 2))
PATCH_CNN = PatchCNNConfig(
    channels=3, growth=1, blocks=1, normalization="batch", features="log", dilations=((1, 1), (2, 1), (1, 4), (4, 2))
)


def make_model(network: ModelConfig, **settings: Any) -> TrainedModel:
    """A model with random parameters."""
    sizes = {"sample_rate": RATE, "clip_samples": 4000, "n_fft": 256, "win_length": 256, "hop_length": 64, "window": "hann"}
    config = Config(DataConfig(patch=PatchSpec(**sizes | settings)), network, SupervisedConfig(), TrainConfig(num_steps=70))
    scale = 3 if isinstance(network, PatchCNNConfig) else 1  # Masks that vary from bin to bin.
    return TrainedModel(config, jax.tree.map(lambda leaf: scale * leaf, separation_variables(config, init_state(config))), {})


def run_of(model: TrainedModel, path: Path) -> Path:
    info = {"step": 60, "select_by": "last", "score": 60.0, "uses_stems": [], "stopped": None, "estimates": {}}
    info |= {"data_fingerprint": "0123456789abcdef", "data": {"has_stems": True, "counts": {}}}
    with RunCheckpoints(path) as checkpoints:
        state = {"step": np.int32(60)}
        checkpoints.save(60, state=state, variables=model.variables, score=60.0, config=model.config, info=info)
    return path


@pytest.mark.parametrize(
    ("network", "stereo"), [(U_NET, True), (U_NET, False), (PATCH_CNN, False)], ids=["U-Net", "U-Net, mono", "patch CNN"]
)
def test_a_graph_gives_the_masks_of_the_network(network: ModelConfig, stereo: bool) -> None:
    model = make_model(network, stereo=stereo)
    session = onnxruntime.InferenceSession(onnx.serialize(model))
    rng = np.random.default_rng(3)
    for examples, frames in ((1, 30), (3, 17)):
        shape = (examples, onnx.num_channels(model.config), frames, model.config.data.patch.bins, 2)
        parts = rng.standard_normal(shape).astype(np.float32)
        (found,) = session.run([onnx.OUTPUT], {onnx.INPUT: parts})
        expected = make_mask_fn(model.config)(model.variables, jnp.asarray(parts[..., 0] + 1j * parts[..., 1]))
        assert np.std(expected) > 0.01
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_graph_of_a_network_in_bfloat16_is_float32() -> None:
    model = make_model(U_NET, stereo=True)
    half = dataclasses.replace(model.config, train=dataclasses.replace(model.config.train, mixed_precision=True))
    graph = onnx.serialize(dataclasses.replace(model, config=half))
    assert graph == onnx.serialize(model)
    onnxruntime.InferenceSession(graph)


def test_a_network_that_cannot_be_translated_is_refused() -> None:
    model = make_model(BandSplitRNNConfig(bands=((1000.0, 4),), channels=4, repeats=1, hidden=4, mask_hidden=8))
    with pytest.raises(ArchiveError, match=r"jax2onnx cannot translate a BandSplitRNN \(.*\)\. Take the format stablehlo\."):
        onnx.serialize(model)


def test_without_jax2onnx_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ArchiveError, match=r'needs jax2onnx .*pip install "jaxpu\[onnx\]"'):
        onnx.serialize(make_model(U_NET))


WITHOUT_JAXPU = """
    import sys
    for name in ("jaxpu", "data_pipeline", "flax", "jax", "tensorflow"):
        sys.modules[name] = None  # An import of it fails.
    exec(open("example.py").read())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "settings"),
    [(U_NET, {"stereo": True, "level": "recording"}), (PATCH_CNN, {"level": "recording"}), (PATCH_CNN, {"level": "reference"})],
    ids=["stereo", "mono", "reference level"],
)
def test_the_example_of_the_card_separates_without_jaxpu(network: ModelConfig, settings: dict[str, Any], tmp_path: Path) -> None:
    run, folder = run_of(make_model(network, **settings), tmp_path / "run"), tmp_path / "graph"
    export(run, folder, licence="MIT", description=DESCRIPTION, form="onnx")
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    (folder / "example.py").write_text(example)
    channels = 2 if settings.get("stereo") else 1
    # The last sample lies in a hop of its own: under the tail of one window, if it were the last of the STFT.
    mixture = np.random.default_rng(5).normal(0.05, 0.2, (channels, 64 * 150 - 1)).astype(np.float32)
    soundfile.write(folder / "song.wav", mixture.T, RATE, subtype="FLOAT")
    subprocess.run([sys.executable, "-c", textwrap.dedent(WITHOUT_JAXPU)], cwd=folder, env=os.environ, check=True)
    expected = separate_waveform(load_model(run), mixture, RATE)
    np.testing.assert_allclose(np.load(folder / "target.npy"), expected, atol=1e-4)
    assert np.abs(expected).max() > 0.01
    with pytest.raises(ArchiveError, match="contains no parameters: its ONNX graph runs only outside jaxpu"):
        load_model(folder)


def test_an_archive_becomes_a_graph_with_its_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, packed = run_of(make_model(U_NET, stereo=True), tmp_path / "run"), tmp_path / "model.zip"
    with pytest.raises(ArchiveError, match="has no licence"):
        export(run, packed, description=DESCRIPTION)
    with pytest.raises(ArchiveError, match="has no description"):
        export(run, packed, licence="CC0-1.0")
    export(run, packed, licence="CC0-1.0", description=DESCRIPTION)
    with pytest.raises(ArchiveError, match=r"is already an archive.*choose a --format"):
        export(packed, tmp_path / "again.zip")
    assert main(["export", str(packed), "-o", str(tmp_path / "graph.zip"), "--format", "onnx"]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "graph.zip")]) == 0
    said = capsys.readouterr().out
    assert "ONNX graph" in said
    assert "CC0-1.0" in said
