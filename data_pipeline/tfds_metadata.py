"""The two files that TensorFlow Datasets opens a folder of TFRecords by, written without importing it.

Its import takes seconds, and fails where its tensorflow-metadata is newer than TensorFlow's protobuf allows, as on Colab.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.config import PatchSpec

FEATURES_FILE = "features.json"
INFO_FILE = "dataset_info.json"

_FEATURES = "tensorflow_datasets.core.features"
_DESCRIPTION = (
    "Patches of complex STFT (real, imaginary) of mixtures and accompaniments, made by jaxpu. `start` is the first sample of the "
    "clip, `level` what it was divided by before the transform."
)


class SplitFiles(NamedTuple):
    """The files of a split.

    Attributes:
        name: such as "train_mixture".
        num_bytes: of all its files.
        shard_lengths: number of records in each.
    """

    name: str
    num_bytes: int
    shard_lengths: Sequence[int]


def write_metadata(folder: Path, name: str, spec: PatchSpec, splits: Sequence[SplitFiles]) -> None:
    """Write features.json and dataset_info.json.

    Args:
        folder: where.
        name: of the dataset; the names of its files begin with it.
        spec: parameters of the patches.
        splits: in order.
    """
    tensors = {
        "level": _tensor("float32"),
        "start": _tensor("int64"),
        "stft": _tensor(spec.dtype, spec.patch_shape, "bytes"),
        "track": _tensor("int32"),
    }
    features = {"featuresDict": {"features": tensors}, "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict"}
    info = {
        "description": _DESCRIPTION,
        "fileFormat": "tfrecord",
        "name": name,
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split.name,
                "numBytes": str(split.num_bytes),
                "shardLengths": [str(length) for length in split.shard_lengths],
            }
            for split in splits
        ],
        "version": "1.0.0",
    }
    (folder / FEATURES_FILE).write_text(json.dumps(features, indent=4), encoding="utf-8")
    (folder / INFO_FILE).write_text(json.dumps(info, indent=2), encoding="utf-8")


def _tensor(dtype: str, shape: Sequence[int] = (), encoding: str = "none") -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    return {
        "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor",
        "tensor": {"dtype": dtype, "encoding": encoding, "shape": dimensions},
    }
