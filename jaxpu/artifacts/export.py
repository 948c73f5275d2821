"""Packaging of a model as an archive to share: parameters or program, config, licence, scores and model card."""

import re
import shlex
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from jaxpu.artifacts import archive, onnx, stablehlo
from jaxpu.artifacts.archive import ArchiveError, Form
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.artifacts.info import describe_run, read_scores
from jaxpu.artifacts.model_card import card
from jaxpu.artifacts.starters import resolved

_PLACEHOLDER = re.compile(r"\b(?:todo|tbd|fixme|xxx|lorem ipsum|fill in)\b|<[^<>]+>|\{[^{}]+\}|^[\W\d_]*$", re.IGNORECASE)


def export(
    model: str | Path,
    out: str | Path,
    *,
    licence: str | None = None,
    description: str | None = None,
    form: Form = "jaxpu",
    scores: str | Path | None = None,
) -> None:
    """Package a run's best checkpoint as an archive, or an archive as a program.

    Args:
        model: run directory of `jaxpu train`; for a program also an archive, or `starter`.
        out: a file `*.zip`, or a folder that does not exist.
        licence: of the parameters, an SPDX expression such as `CC-BY-4.0`; `LicenseRef-NAME` for one that SPDX does not list.
            By default an archive's; a run has none.
        description: of the training data, for the card; by default an archive's.
        form: `jaxpu` stores the parameters; `stablehlo` a program, and `onnx` a graph, which run without jaxpu.
        scores: `scores.json` of this checkpoint; by default `evaluation/scores.json` in the run directory, if it exists, or
            those of the archive.

    Raises:
        ArchiveError: no licence or an unknown one, a description with placeholders, scores of another checkpoint, an existing
            folder, an archive without another form, or a network that cannot be translated.
        CheckpointError: `model` has no checkpoint.
    """
    path, out = resolved(model), Path(out)
    loaded = load_model(path)
    if archive.is_archive(path):
        if form == "jaxpu":
            raise ArchiveError(f"{path} is already an archive. Export the run that it was made from, or choose a --format.")
        document = archive.read_description(path)
        del document["format"]
    else:
        document = describe_run(path, loaded)
        del document["name"]  # Paths are private.
        document["config"]["train"]["init_from"] = Path(loaded.config.train.init_from).name
    document["kind"] = archive.KINDS[form]
    document["licence"] = _checked_licence(document.get("licence") if licence is None else licence)
    document["description"] = _checked_description(document.get("description") if description is None else description)
    if scores is not None:
        document["scores"] = read_scores(Path(scores), loaded.info)
        if document["scores"] is None:
            raise ArchiveError(
                f"{scores} has the scores of a checkpoint other than that of step {loaded.info['step']} of {path}. "
                f"Evaluate this one: jaxpu evaluate {shlex.quote(str(path))} CORPUS"
            )
    files = {archive.CARD_FILE: card(document, form=form).encode(errors="replace")}
    if form == "jaxpu":
        files[archive.PARAMETERS_FILE] = archive.variables_to_bytes(loaded.variables)
    else:
        serialize = {"stablehlo": stablehlo.serialize, "onnx": onnx.serialize}[form]
        files[archive.PROGRAM_FILES[form]] = serialize(loaded)
    archive.write(out, document, files)


def _checked_licence(licence: str | None) -> str:
    if licence is None:
        raise ArchiveError("A run has no licence. Give one for its parameters with --licence, such as CC-BY-4.0.")
    try:
        return canonicalize_license_expression(licence)
    except InvalidLicenseExpression as error:
        raise ArchiveError(
            f"The licence is {licence!r}, which is not an SPDX expression. Name one of https://spdx.org/licenses, such as "
            "CC-BY-4.0 or Apache-2.0, or LicenseRef-NAME for your own."
        ) from error


def _checked_description(description: str | None) -> str:
    if description is None:
        raise ArchiveError("A run has no description. Say with --description what the model was trained on.")
    placeholder = _PLACEHOLDER.search(description)
    if placeholder:
        raise ArchiveError(
            f"The description contains {placeholder.group()!r}. State in a sentence what the model was trained on: which "
            "recordings, how many, whose, and what their licence allows."
        )
    return description
