"""The core asks for no backend, no device and no clock: tracing it on any machine gives the same program."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from data_pipeline.config import DataConfig, PatchSpec
from jaxpu.artifacts.stablehlo import serialize
from jaxpu.config import Config, PatchCNNConfig
from jaxpu.core.network import TrainedModel, variable_shapes

CORE = Path(__file__).parents[2] / "jaxpu" / "core"
CONFIG = Config(
    data=DataConfig(patch=PatchSpec(sample_rate=8000, clip_samples=512, n_fft=64, win_length=64, hop_length=32)),
    model=PatchCNNConfig(channels=2, blocks=0, dilations=((2, 2), (4, 4)), features="log"),
)


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_names_nothing_that_depends_on_the_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"\b(?:default_backend|devices|local_devices|device_count|process_index|time|os|sys|open)\(", text)
    assert not re.findall(r"^(?:import|from) (?:os|sys|time|pathlib|random|data_pipeline\.(?!config))\b", text, re.MULTILINE)


def test_an_exported_program_has_no_form_of_the_exporting_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any, **__: Any) -> str:
        raise AssertionError("the backend was asked for while tracing")

    variables = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), variable_shapes(CONFIG))
    model = TrainedModel(CONFIG, variables, {})
    program = serialize(model)
    monkeypatch.setattr(jax, "default_backend", asked)
    assert len(serialize(model)) == len(program)
