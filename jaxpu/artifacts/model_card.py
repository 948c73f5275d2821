"""The model card: what a model that is handed on says of itself, from what is recorded."""

from typing import Any

from jaxpu.artifacts.archive import PROGRAM_FILE
from jaxpu.artifacts.info import model_rows
from jaxpu.config import Config
from jaxpu.config_files import from_json

_CARD = """\
# {target}: a separation model of jaxpu

{description}

It splits a recording into {target} and all the rest. The network saw recordings with the target and recordings without it{stems}.

## Licence

{licence}, of the parameters and this card. What the training recordings allow is for their description above to say.

## Use

{use}

## What is known

| | |
|---|---|
{table}

{scores}

## Limits

- It works at {rate} Hz: what lies above {nyquist:g} kHz goes to the accompaniment.
- {channels}
- What was not measured is not known: other kinds of recordings than those of its training data and of its scores above.
"""

_USE_PARAMETERS = """\
With jaxpu {version} or later; the archive need not be unpacked:

```
jaxpu separate MODEL.zip song.wav -o separated
```

```python
import soundfile
from jaxpu.artifacts.checkpoints import load_model
from jaxpu.separation.files import separate_waveform

waveform, sample_rate = soundfile.read("song.wav", dtype="float32", always_2d=True)
target = separate_waveform(load_model("MODEL.zip"), waveform.T, sample_rate)  # (channels, samples)
```"""

_USE_PROGRAM = """\
Without jaxpu: `{file}` is a StableHLO program, lowered for CPU, CUDA and TPU, with the parameters in it. Unpack the archive.
`pip install jax flatbuffers` is all that it needs.

```python
import jax
import numpy as np
from jax import export

with open("{file}", "rb") as file:
    separate = jax.jit(export.deserialize(bytearray(file.read())).call)

mixture = np.load("mixture.npy")  # float32 (channels, samples) at {rate} Hz, at least {shortest} samples
target = np.asarray(separate(mixture[None])[0])  # of the same shape; the accompaniment is mixture - target
np.save("target.npy", target)
```

It takes float32 (recordings, channels, samples), any number of each, and compiles once for every shape. A recording is separated
as a whole, so memory grows with its length: cut long ones into overlapping pieces and fade these into each other.{level}"""

_PIECES_HAVE_A_LEVEL = """
Every input is brought to one level by itself; pieces of a recording should be brought to the level of the whole before."""


def card(document: dict[str, Any], *, program: bool) -> str:
    """The card, in Markdown.

    Args:
        document: of `jaxpu.artifacts.info.describe_run`, with licence and description.
        program: for an archive with a StableHLO program in the place of parameters.
    """
    config: Config = from_json(document["config"])
    patch, reasons = config.data.patch, document["info"]["uses_stems"]
    use = _USE_PARAMETERS.format(version=document["jaxpu"])
    if program:
        level = "" if patch.level == "reference" else _PIECES_HAVE_A_LEVEL
        use = _USE_PROGRAM.format(file=PROGRAM_FILE, rate=patch.sample_rate, shortest=patch.n_fft, level=level)
    channels = (
        "Channels are separated one by one."
        if patch.stereo
        else "All channels of a recording get one mask, that of their mean: what is out of phase between them is hardly heard."
    )
    # Licence and description have places of their own.
    rows = [(label, text) for label, text in model_rows(document) if label not in ("licence", "about")]
    return _CARD.format(
        target=" and ".join(config.data.target),
        description=document["description"],
        licence=document["licence"],
        stems=f"; stems were used for {', '.join(reasons)}" if reasons else ", never the target by itself",
        use=use,
        table="\n".join(f"| {label} | {text} |" for label, text in rows),
        scores=_score_table(document["scores"]),
        rate=patch.sample_rate,
        nyquist=patch.sample_rate / 2000,
        channels=channels,
    )


def _score_table(scores: dict[str, Any] | None) -> str:
    if scores is None:
        return "Its scores are unknown: nobody has evaluated this checkpoint."

    def cell(summary: dict[str, Any], name: str) -> str:
        return "unknown" if summary[name] is None else f"{summary[name]:.2f}"

    lines = [
        f"Scores on the split {scores['split']}, dB: SI-SDR improvement, mean over tracks; museval's SDR, median.",
        "",
        "| | tracks | SI-SDR improvement | SDR of the target | SDR of the accompaniment |",
        "|---|---|---|---|---|",
    ]
    columns = ("si_sdr_improvement_mean", "sdr_target", "sdr_accompaniment")
    for name, method in scores["methods"].items():
        cells = " | ".join(cell(method["summary"], column) for column in columns)
        lines.append(f"| {name} | {method['num_tracks']} | {cells} |")
    return "\n".join(lines)
