"""Descriptions of a config, prepared data or a model, as JSON-serialisable documents and as text.

`jaxpu info` prints them, and an archive stores that of its model (`jaxpu.artifacts.export`).  Only runs need JAX.
"""

import ast
import dataclasses
import re
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxpu
from data_pipeline.config import DataConfig
from data_pipeline.dataclass_json import decode
from data_pipeline.dataset import INFO_FILE, UNFINISHED_FOLDER, PatchDataset
from data_pipeline.errors import UserError
from data_pipeline.stored_json import finite, read_json
from jaxpu.artifacts import archive
from jaxpu.artifacts.records import ScoresFile
from jaxpu.artifacts.starters import resolved
from jaxpu.config import Config, uses_stems
from jaxpu.config_files import config_names, config_path, from_json, load_config, to_json

if TYPE_CHECKING:
    from jaxpu.core.network import TrainedModel

Rows = list[tuple[str, str]]
"""Labels with their values."""


class DescriptionError(UserError):
    """A name that is not a config, data or model."""


def describe(name: str) -> dict[str, Any]:
    """Describe a run, an archive, `starter`, prepared data, or a config by file or name.

    Raises:
        DescriptionError: it is none of these.
        ConfigError: there is no config of that name, or it cannot be used.
        CheckpointError, ArchiveError, DataError: it is damaged or unfinished.
    """
    path = resolved(name)
    if (path / "checkpoints").is_dir():
        return describe_run(path, jaxpu.load_model(path))
    if archive.is_archive(path) and (path.is_dir() or path.suffix == ".zip" or zipfile.is_zipfile(path)):
        return {**archive.read_description(path), "name": name}
    if (path / INFO_FILE).exists() or (path / UNFINISHED_FOLDER).is_dir():
        return describe_data(PatchDataset.open(path))
    unknown = not path.exists() and not path.suffix and path.name == name  # Its message names the configs.
    if path.suffix == ".py" or path.is_file() or name in config_names() or unknown:
        return describe_config(name)
    inside = [str(each.parent) for pattern in ("checkpoints", INFO_FILE) for each in sorted(path.glob(f"*/{pattern}"))]
    hint = f" It contains {', '.join(inside[:5])}." if inside else ""
    missing = "is neither a run directory, an archive nor prepared data" if path.exists() else "does not exist"
    raise DescriptionError(f"{name} {missing}.{hint} Name a run, an archive, prepared data or a config.")


def describe_config(name: str) -> dict[str, Any]:
    """Describe a config, by file or name."""
    path, config = config_path(name), load_config(name)
    begins = config.train.init_from
    initial = [f"initial parameters, if {begins} used them (`jaxpu info {shlex.quote(begins)}`)"] if begins else []
    about = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    return {
        "kind": "config",
        "name": path.stem,
        "given": name,
        "about": about,
        "uses_stems": [*uses_stems(config), *initial],
        "config": to_json(config),
    }


def describe_data(dataset: PatchDataset) -> dict[str, Any]:
    """Describe prepared data."""
    comparison = dataset.info.get("comparison") or {}
    return {
        "kind": "data",
        "name": str(dataset.directory),
        "fingerprint": dataset.fingerprint,
        "has_stems": dataset.has_stems,
        "uses_stems": dataset.uses_stems,
        "counts": dataset.info["counts"],
        "bytes": sum(dataset.info["files"].values()),
        "skipped": dataset.info["skipped"],
        "marks_check": dataset.info.get("marks_check"),
        "warnings": comparison.get("warnings", []),
        "config": to_json(dataset.config),
    }


def describe_run(path: Path, model: "TrainedModel") -> dict[str, Any]:
    """Describe a run, with the scores in its folder `evaluation` if they are of this checkpoint."""
    scores_path, run_config = path / "evaluation" / "scores.json", path / "config.json"
    config = to_json(model.config)
    if run_config.exists():  # The run may have gone on for more steps than its checkpoint was to have.
        stored = read_json(run_config, dict[str, Any], DescriptionError, "Restore it from a copy.")
        config["train"]["num_steps"] = from_json(stored).train.num_steps
    return {
        "kind": "run",
        "name": str(path),
        "jaxpu": jaxpu.__version__,
        "licence": None,
        "description": None,
        "num_parameters": archive.num_parameters(model.variables),
        "config": config,
        "info": model.info,
        "scores": read_scores(scores_path, model.info) if scores_path.exists() else None,
    }


def read_scores(path: Path, info: dict[str, Any]) -> dict[str, Any] | None:
    """Read the means and medians in a `scores.json` of `jaxpu evaluate`; None if they are of a checkpoint other than `info`'s.

    Raises:
        FileNotFoundError: there is no such file.
        DescriptionError: it is damaged.
    """
    scores = read_json(path, ScoresFile, DescriptionError, "Evaluate the model again.")
    names = ("step", "data_fingerprint", "num_networks", "score", "results", "parameters")
    scored, own = ({name: each.get(name) for name in names} for each in (scores["model"], info))
    if scored != finite(own):
        return None
    methods = {
        name: {"num_tracks": method["num_tracks"], "summary": method["summary"]} for name, method in scores["methods"].items()
    }
    return {"split": scores["split"], "methods": methods}


def to_text(document: dict[str, Any]) -> str:
    """Format a document of `describe` as text."""
    rows = {"config": _config_rows, "data": _data_rows}.get(document["kind"], model_rows)(document)
    width = max(len(label) for label, _ in rows)
    about = f"\n{document['about']}\n" if document["kind"] == "config" and document["about"] else None
    lines = [f"{document['name']}: {document['kind']}", *([about] if about else [])]
    lines += [f"  {label:<{width}}  {text}" for label, text in rows]
    # Texts of foreign archives must not control the terminal.
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "?", "\n".join(lines))


def model_rows(document: dict[str, Any]) -> Rows:
    """Known and unknown facts of a run or an archive."""
    config, info = from_json(document["config"]), document["info"]
    members, num_networks = members_of(config, info), info.get("num_networks", 1)
    size = f"{document['num_parameters'] // num_networks:,} parameters"
    if num_networks > 1:
        size = f"{num_networks} networks of {size} each, whose masks are averaged"
    rows = [
        *_target_rows(config.data),
        ("network", f"{size}; {_fields(config.model)}"),
        ("objective", _fields(config.objective)),
        ("trained", _of_each(members, _trained)),
        ("selected by", _of_each(members, lambda member: f"{member['select_by']} ({member['score']:.4g})")),
        ("stems", _used(info["uses_stems"])),
    ]
    for field, found in info.get("estimates", {}).items():
        rows.append((field.replace("_", " "), f"{found['number']:.2f}, estimated from the data"))
    return [
        *rows,
        ("data", _of_each(members, _data)),
        *dict.fromkeys(row for member in members for row in _check_rows((member["data"] or {}).get("marks_check"))),
        ("scores", _scores(document["scores"])),
        ("licence", document["licence"] or "none yet: `jaxpu export --licence` sets one"),
        ("about", document["description"] or "nothing yet: `jaxpu export --description` describes the training data"),
        ("jaxpu", document["jaxpu"]),
    ]


def members_of(config: Config, info: dict[str, Any]) -> list[dict[str, Any]]:
    """How the networks of a model were trained, as `jaxpu.artifacts.records.Member`; of older ensembles the first alone."""
    found = {name: info.get(name) for name in ("step", "select_by", "score", "data", "stopped")}
    return info.get("members") or [{**found, "num_steps": config.train.num_steps}]


def _of_each(members: list[dict[str, Any]], words: Callable[[dict[str, Any]], str]) -> str:
    """Words for the networks of a model; the same words once."""
    return " | ".join(dict.fromkeys(map(words, members)))


def _trained(member: dict[str, Any]) -> str:
    stopped = f", stopped: {member['stopped']}" if member["stopped"] else ""
    return f"{member['step']} of {member['num_steps']} steps{stopped}"


def _data(member: dict[str, Any]) -> str:
    return _counts(member["data"]["counts"]) if member["data"] else "unknown: the run is older than this record"


def _config_rows(document: dict[str, Any]) -> Rows:
    config: Config = from_json(document["config"])
    prior = getattr(config.objective, "class_prior", None)
    priors = {None: "not needed", "estimate": "estimated from the data before training"}
    train = config.train
    return [
        *_target_rows(config.data),
        ("network", _fields(config.model)),
        ("objective", _fields(config.objective)),
        ("class prior", priors.get(prior, f"{prior} is set; `jaxpu estimate-prior` estimates that of prepared data")),
        ("stems", _used(document["uses_stems"])),
        ("training", f"{train.num_steps} steps of {train.batch_size} clips, selected by {train.select_by}"),
        ("next", f"jaxpu prepare {shlex.quote(document['given'])} --help"),
    ]


def _data_rows(document: dict[str, Any]) -> Rows:
    config = decode(DataConfig, document["config"])
    rows = [
        *_target_rows(config),
        ("recordings", _counts(document["counts"])),
        ("stems", "yes, so that estimates can be scored" if document["has_stems"] else "no"),
        ("made with stems", document["uses_stems"] or "no"),
        ("size", f"{document['bytes'] / 1e6:,.0f} MB of {config.patch.dtype}"),
        ("fingerprint", document["fingerprint"]),
    ]
    rows += _check_rows(document["marks_check"])
    rows += [("skipped", message) for message in document["skipped"].values()]
    rows += [("warning", message) for message in document["warnings"]]
    return rows


def _target_rows(data: DataConfig) -> Rows:
    patch = data.patch
    channels = "stereo" if patch.stereo else "mono downmix"
    return [
        ("target", " and ".join(data.target)),
        ("input", f"{channels} at {patch.sample_rate} Hz, level: {patch.level}"),
        ("STFT", f"{patch.n_fft} samples every {patch.hop_length}, {patch.window} window; clips of {patch.clip_s:.2f} s"),
    ]


def _fields(config: Any) -> str:
    """Format a dataclass as one line."""
    values = (f"{field.name} {getattr(config, field.name)}" for field in dataclasses.fields(config))
    return f"{type(config).__name__}: {', '.join(values)}"


def _used(reasons: list[str]) -> str:
    return f"used for {', '.join(reasons)}" if reasons else "none used"


def _counts(counts: dict[str, dict[str, Any]]) -> str:
    """Format the numbers and lengths of the recordings of every split, with the target and without it, by source."""
    none = {"tracks": 0, "kept_s": 0.0}
    splits = []
    for split in ("train", "validation"):
        mixture, free = (counts.get(f"{split}_{signal}", none) for signal in ("mixture", "accompaniment"))
        songs, marked_s = free.get("marked_tracks", 0), free.get("marked_s", 0.0)
        parts = [f"{mixture['tracks']} ({_minutes(mixture['kept_s'])}) with the target"]
        if songs:
            parts.append(f"marked passages of {songs} of them ({_minutes(marked_s)})")
        if free["tracks"] > songs or not songs:
            parts.append(f"{free['tracks'] - songs} ({_minutes(free['kept_s'] - marked_s)}) without it")
        splits.append(f"{split}: {', '.join(parts)}")
    return "; ".join(splits)


def _check_rows(checked: dict[str, Any] | None) -> Rows:
    """Format the check of marks, if there was one; data list the marks that are left out, models their number."""
    if checked is None:
        return []
    number = checked["num_left_out"] if "num_left_out" in checked else len(checked["left_out"])
    return [("marks", f"{number} of {checked['num_marks']} left out: {checked['model']} finds the target there")]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _scores(scores: dict[str, Any] | None) -> str:
    if scores is None or "model" not in scores["methods"]:
        return "unknown: this checkpoint has not been evaluated by `jaxpu evaluate`"
    model = scores["methods"]["model"]
    values = {
        "SI-SDR improvement": model["summary"].get("si_sdr_improvement_mean"),
        "SDR": model["summary"].get("sdr_target"),
        "SDR of the accompaniment": model["summary"].get("sdr_accompaniment"),
    }
    known = ", ".join(f"{name} {value:.1f} dB" for name, value in values.items() if value is not None)
    return f"{known}; {model['num_tracks']} tracks of the split {scores['split']}"
