"""Packaging of a run as an archive to share: parameters or program, config, licence, scores and model card."""

import re
import shlex
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from jaxpu.artifacts import archive
from jaxpu.artifacts.archive import ArchiveError
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.artifacts.info import describe_run, read_scores
from jaxpu.artifacts.model_card import card
from jaxpu.artifacts.stablehlo import serialize
from jaxpu.artifacts.starters import resolved

_PLACEHOLDER = re.compile(r"\b(?:todo|tbd|fixme|xxx|lorem ipsum|fill in)\b|<[^<>]+>|\{[^{}]+\}|^[\W\d_]*$", re.IGNORECASE)


def export(
    run: str | Path, out: str | Path, *, licence: str, description: str, program: bool = False, scores: str | Path | None = None
) -> None:
    """Package a run's best checkpoint as an archive.

    Args:
        run: run directory of `jaxpu train`.
        out: a file `*.zip`, or a folder that does not exist.
        licence: of the parameters, an SPDX expression such as `CC-BY-4.0`; `LicenseRef-NAME` for one that SPDX does not list.
        description: of the training data, for the card.
        program: store a StableHLO program, which runs without jaxpu, instead of the parameters.
        scores: `scores.json` of this checkpoint; by default `evaluation/scores.json` in the run directory, if it exists.

    Raises:
        ArchiveError: an unknown licence, a description with placeholders, scores of another checkpoint, or an existing folder.
        CheckpointError: `run` has no checkpoint.
    """
    try:
        licence = canonicalize_license_expression(licence)
    except InvalidLicenseExpression as error:
        raise ArchiveError(
            f"The licence is {licence!r}, which is not an SPDX expression. Name one of https://spdx.org/licenses, such as "
            "CC-BY-4.0 or Apache-2.0, or LicenseRef-NAME for your own."
        ) from error
    placeholder = _PLACEHOLDER.search(description)
    if placeholder:
        raise ArchiveError(
            f"The description contains {placeholder.group()!r}. State in a sentence what the model was trained on: which "
            "recordings, how many, whose, and what their licence allows."
        )
    run, out = resolved(run), Path(out)
    if archive.is_archive(run):
        raise ArchiveError(f"{run} is already an archive. Export the run that it was made from.")
    model = load_model(run)
    document = describe_run(run, model) | {"licence": licence, "description": description}
    document["kind"] = "StableHLO program" if program else "model"
    del document["name"]  # The path of the run is private.
    if scores is not None:
        document["scores"] = read_scores(Path(scores), model.info)
        if document["scores"] is None:
            raise ArchiveError(
                f"{scores} has the scores of a checkpoint other than that of step {model.info['step']} of {run}. "
                f"Evaluate this one: jaxpu evaluate {shlex.quote(str(run))} CORPUS"
            )
    files = {archive.CARD_FILE: card(document, program=program).encode(errors="replace")}
    if program:
        files[archive.PROGRAM_FILE] = serialize(model)
    else:
        files[archive.PARAMETERS_FILE] = archive.variables_to_bytes(model.variables)
    archive.write(out, document, files)
