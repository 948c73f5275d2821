"""Packaging of a model as an archive to share: parameters or program, config, licence, scores and model card."""

import dataclasses
import hashlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from jaxpu.artifacts import archive, onnx, stablehlo
from jaxpu.artifacts.archive import ArchiveError, Form
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.artifacts.info import describe_run, members_of, read_scores
from jaxpu.artifacts.model_card import card
from jaxpu.artifacts.starters import resolved
from jaxpu.core.network import TrainedModel, networks

_PLACEHOLDER = re.compile(r"\b(?:TODO|(?i:tbd|fixme|xxx|lorem ipsum|fill in))\b|<[^<>\s][^<>]*>|\{[^{}]+\}|^[\W\d_]*$")

_LEVEL = "level of the training mixtures"


def export(
    model: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    licence: str | None = None,
    description: str | None = None,
    form: Form = "jaxpu",
    scores: str | Path | None = None,
) -> None:
    """Package a run's best checkpoint as an archive, several as an ensemble, or an archive as a program.

    Args:
        model: run directory of `jaxpu train`; for a program also an archive, or `starter`.  Of several, runs or archives, the
            networks become an ensemble, whose masks are averaged; each network takes as long as one model.
        out: a file `*.zip`, or a folder that does not exist.
        licence: of the parameters, an SPDX expression such as `CC-BY-4.0`; `LicenseRef-NAME` for one that SPDX does not list.
            By default an archive's; a run has none, nor have several models.
        description: of the training data, for the card; by default an archive's.
        form: `jaxpu` stores the parameters; `stablehlo` a program, and `onnx` a graph, which run without jaxpu.
        scores: `scores.json` of this checkpoint; by default `evaluation/scores.json` in the run directory, if it exists, or
            those of the archive; several models have none.

    Raises:
        ArchiveError: no licence or an unknown one, a description with placeholders, scores of another checkpoint, an existing
            folder, an archive without another form, a network that cannot be translated, or models that differ in more than
            their parameters, or not even in these.
        CheckpointError: `model` has no checkpoint.
    """
    paths, out = [resolved(each) for each in ([model] if isinstance(model, (str, Path)) else model)], Path(out)
    if out.exists() and any(out.samefile(each) for each in paths):
        raise ArchiveError(f"{out} is the model itself, which would be replaced. Choose another name after -o.")
    path, loaded = paths[0], _ensemble(paths)
    if archive.is_archive(path) and form == "jaxpu" and len(paths) == 1:
        raise ArchiveError(f"{path} is already an archive. Export the run that it was made from, or choose a --format.")
    document = _described(path, loaded)
    if len(paths) > 1:
        document |= {"info": loaded.info, "num_parameters": archive.num_parameters(loaded.variables)}
        document |= {"scores": None, "licence": None, "description": None}
    document["kind"] = archive.KINDS[form]
    document["licence"] = _checked_licence(document.get("licence") if licence is None else licence)
    document["description"] = _checked_description(document.get("description") if description is None else description)
    if scores is not None:
        document["scores"] = read_scores(Path(scores), loaded.info)
        if document["scores"] is None:
            raise ArchiveError(
                f"{scores} has the scores of a checkpoint other than that of step {loaded.info['step']} of {path}. "
                f"Evaluate this one: jaxpu evaluate {shlex.quote(str(path if len(paths) == 1 else out))} CORPUS"
            )
    files = {archive.CARD_FILE: card(document, form=form).encode(errors="replace")}
    if form == "jaxpu":
        files[archive.PARAMETERS_FILE] = archive.variables_to_bytes(loaded.variables)
    else:
        serialize = {"stablehlo": stablehlo.serialize, "onnx": onnx.serialize}[form]
        files[archive.PROGRAM_FILES[form]] = serialize(loaded)
    archive.write(out, document, files)


def _described(path: Path, loaded: TrainedModel) -> dict[str, Any]:
    """Contents of `model.json`, without those that `archive.write` adds: an archive's own, or those of a run."""
    if archive.is_archive(path):
        document = archive.read_description(path)
        del document["format"]
        return document
    document = describe_run(path, loaded)
    del document["name"]  # Paths are private.
    document["config"]["train"]["init_from"] = Path(loaded.config.train.init_from).name
    return document


def _ensemble(paths: Sequence[Path]) -> TrainedModel:
    """The model at a path, or the ensemble of several."""
    models = [load_model(path) for path in paths]
    first = models[0]
    if len(models) == 1:
        return first
    for path, model in zip(paths[1:], models[1:], strict=True):
        for (name, wanted), (_, found) in zip(_must_agree(first), _must_agree(model), strict=True):
            if wanted != found:
                may = "seed or their training" if name == _LEVEL else "seed, their data or their training"
                raise ArchiveError(
                    f"{paths[0]} and {path} cannot be an ensemble: the {name} of the first is {wanted}, of the second {found}. "
                    f"Take runs that differ in their {may}."
                )
    _refuse_copies(paths, models)
    variables = tuple(network for model in models for network in networks(model.variables))
    if len(variables) > archive.MAX_NETWORKS:
        raise ArchiveError(f"The models have {len(variables)} networks; an archive holds at most {archive.MAX_NETWORKS}.")
    uses_stems = list(dict.fromkeys(reason for model in models for reason in model.info["uses_stems"]))
    digest = hashlib.sha256(archive.variables_to_bytes(variables)).hexdigest()[:16]
    members = [member for model in models for member in members_of(model.config, model.info)]
    info = {**first.info, "uses_stems": uses_stems, "num_networks": len(variables), "members": members, "parameters": digest}
    return dataclasses.replace(first, variables=variables, info=info)


def _refuse_copies(paths: Sequence[Path], models: Sequence[TrainedModel]) -> None:
    """Raise ArchiveError if two models have the same parameters: together they separate as one does, in twice the time."""
    found: dict[bytes, Path] = {}
    for path, model in zip(paths, models, strict=True):
        other = found.setdefault(hashlib.sha256(archive.variables_to_bytes(model.variables)).digest(), path)
        if other is not path:
            raise ArchiveError(
                f"{other} and {path} have the same parameters, so an ensemble of them is no better than one. Name each model "
                "once, or train one with another seed (--train.seed)."
            )


def _must_agree(model: TrainedModel) -> list[tuple[str, Any]]:
    """Names and values of all that the networks of an ensemble must share."""
    config = model.config
    return [
        ("target", " and ".join(config.data.target)),
        ("STFT", config.data.patch),
        ("network", config.model),
        ("objective", type(config.objective).__name__),
        ("mask", getattr(config.objective, "mask", None)),
        ("mixed precision", config.train.mixed_precision),
        (_LEVEL, model.training_rms if config.data.patch.level == "reference" else None),
    ]


def _checked_licence(licence: str | None) -> str:
    if licence is None:
        raise ArchiveError(
            "A run has no licence, nor have several models together. Give one for the parameters with --licence, such as "
            "CC-BY-4.0."
        )
    try:
        return canonicalize_license_expression(licence)
    except InvalidLicenseExpression as error:
        raise ArchiveError(
            f"The licence is {licence!r}, which is not an SPDX expression. Name one of https://spdx.org/licenses, such as "
            "CC-BY-4.0 or Apache-2.0, or LicenseRef-NAME for your own."
        ) from error


def _checked_description(description: str | None) -> str:
    if description is None:
        raise ArchiveError(
            "A run has no description, nor have several models together. Say with --description what the model was trained on."
        )
    placeholder = _PLACEHOLDER.search(description)
    if placeholder:
        raise ArchiveError(
            f"The description contains {placeholder.group()!r}. State in a sentence what the model was trained on: which "
            "recordings, how many, whose, and what their licence allows."
        )
    return description
