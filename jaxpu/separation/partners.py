"""Averaging over remixes at use: the mask of a recording from its remixes with positive recordings.

`remix` learns from mixtures with a positive added, so a plain mixture is sparser than all it has seen.  Here it gets what it
knows: the mask of a mixture is the mean of the masks of its remixes with several positives.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np

from data_pipeline import audio
from data_pipeline.tracks import audio_files
from jaxpu.config import BootstrapConfig, ConfigError, RemixConfig
from jaxpu.core.network import TrainedModel

PASSAGE_S = 30.0
"""Seconds that are kept of a positive recording, from its middle."""

MAX_RECORDINGS = 32
"""Recordings that are kept of a folder, spread over its files in order of their names: 170 MB at 44.1 kHz."""


@dataclasses.dataclass(frozen=True)
class Partners:
    """Positive recordings at the rate and level of a model.

    Attributes:
        passages: float32 (samples,) each.
        num_remixes: masks in a mean.
    """

    passages: tuple[np.ndarray, ...]
    num_remixes: int

    def draw(self, first_sample: int, num_samples: int) -> np.ndarray:
        """Positives for a part of a recording, a function of where it begins: float32 (num_remixes, num_samples)."""
        rng = np.random.default_rng(first_sample)
        chosen = [self.passages[index] for index in rng.integers(len(self.passages), size=self.num_remixes)]
        return np.stack([np.resize(np.roll(passage, -rng.integers(len(passage))), num_samples) for passage in chosen])


def load_partners(model: TrainedModel, folder: str | os.PathLike[str], *, num_remixes: int = 4) -> Partners:
    """Reads positive recordings for a model.

    Args:
        model: trained by `remix` or `pnu`.
        folder: of recordings without the target, with subfolders, such as the `--without` of the training data.
        num_remixes: masks in a mean; separation takes as many times longer.

    Raises:
        ConfigError: of another objective, whose mixtures in training are as dense as plain ones; or no remix at all.
        AudioError: the folder has no recordings, or one of them cannot be read.
    """
    objective = model.config.objective
    if not isinstance(objective, RemixConfig) or isinstance(objective, BootstrapConfig):
        name = type(objective).__name__
        raise ConfigError(
            f"The model's objective is {name}; remixes help those of RemixConfig and PNUConfig. Leave positives out."
        )
    if num_remixes < 1:
        raise ConfigError(f"num_remixes is {num_remixes}; it must be positive.")
    files = sorted(audio_files(Path(folder)))
    chosen = [files[index * len(files) // min(len(files), MAX_RECORDINGS)] for index in range(min(len(files), MAX_RECORDINGS))]
    gain = 10 ** (float(objective.positive_gain_db) / 20)
    return Partners(tuple(_passage(model, path) * np.float32(gain) for path in chosen), num_remixes)


def _passage(model: TrainedModel, path: Path) -> np.ndarray:
    patch = model.config.data.patch
    mono = np.concatenate([block.mean(0) for block in audio.read_blocks(path, sample_rate=patch.sample_rate)])
    mean, deviation = (0.0, 1.0) if patch.level == "reference" else audio.mean_and_deviation([mono])
    kept = min(len(mono), round(PASSAGE_S * patch.sample_rate))
    first = (len(mono) - kept) // 2
    return ((mono[first : first + kept] - mean) / deviation).astype(np.float32)
