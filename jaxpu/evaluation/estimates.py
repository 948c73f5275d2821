"""Estimates on disk, of any separator, one folder for each song: [train|test]/SONG/NAME.wav, or any other format of audio."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_pipeline.audio import probe, read_blocks
from data_pipeline.recordings import Track
from data_pipeline.stem_folders import song_folders, stem_files
from jaxpu.artifacts.archive import is_archive
from jaxpu.evaluation.scoring import EvaluationError

NOT_THE_TARGET = ("accompaniment", "mixture")
"""Files that are no estimates of a target; `jaxpu separate` writes the first beside it."""


def is_estimates(path: Path) -> bool:
    """Whether a path is a folder with audio files in folders of songs, as separators write them, and no model."""
    is_model = is_archive(path) or (path / "checkpoints").exists()
    return path.is_dir() and not is_model and any(map(stem_files, song_folders(path)))


class Estimates:
    """The estimates of one target in a folder.

    Args:
        folder: of the songs, or of split folders.
        target: names of the stems that make the target, whose file is named `drums-bass` for drums and bass; none: that of the
            only kind of file.

    Attributes:
        target: names of the stems that make the target.

    Raises:
        EvaluationError: the folder has no such files, or several kinds and no target is named.
    """

    def __init__(self, folder: Path, target: tuple[str, ...] = ()) -> None:
        files = {song: stem_files(song) for song in song_folders(folder)} if folder.is_dir() else {}
        counts = Counter(name for found in files.values() for name in found if name not in NOT_THE_TARGET)
        if not counts:
            raise EvaluationError(
                f"{folder}: has no separated files, [train|test]/SONG/NAME.wav. A model has its own target: leave --target out."
            )
        names = ", ".join(f"{name} ({count} songs)" for name, count in counts.most_common())
        if not target and (len(counts) > 1 or "-" in next(iter(counts))):
            raise EvaluationError(f"{folder}: has {names}. Name the stems of the target that is to be scored (--target).")
        self.target = target or tuple(counts)
        name = "-".join(self.target)
        if not counts[name]:
            raise EvaluationError(
                f"{folder}: has no files named {name}, as those of the target {' and '.join(self.target)} would be, but {names}. "
                "Name the stems in this order (--target)."
            )
        self._folder, self._name = folder, name
        self._files = {(song.parent.name, song.name): found[name] for song, found in files.items() if name in found}
        self._in_splits = any(song.parent != folder for song in files)

    def of(self, track: Track) -> npt.NDArray[np.float32]:
        """Read the estimate of a track, float32 (channels, samples); more than two channels are averaged, as those of mixtures.

        Raises:
            EvaluationError: the song has none, or its rate or shape is not that of the mixture.
            AudioError: the file is damaged.
        """
        assert track.mixture is not None
        split = "test" if track.split == "test" else "train"  # Validation songs are in the folder train.
        path = self._files.get((split if self._in_splits else self._folder.name, track.name))
        if path is None:
            raise EvaluationError(f"{self._folder}: has no {self._name} of the song {track.name}. Separate it, too.")
        estimate: npt.NDArray[np.float32] = np.concatenate(list(read_blocks(path)), axis=1)
        mixture, rate = track.mixture.info, probe(path).sample_rate
        length = track.mixture.read().shape[1] if mixture.num_samples is None else mixture.num_samples
        if (*estimate.shape, rate) != (mixture.num_channels, length, mixture.sample_rate):
            raise EvaluationError(
                f"{path}: has {estimate.shape[0]} channels of {estimate.shape[1]} samples at {rate} Hz, and its mixture "
                f"{mixture.num_channels} of {length} at {mixture.sample_rate} Hz. Export it like the mixture, without padding."
            )
        return estimate if len(estimate) <= 2 else estimate.mean(0, keepdims=True)
