"""The model card of an archive, made from the recorded facts."""

from typing import Any

from jaxpu.artifacts import onnx
from jaxpu.artifacts.archive import PROGRAM_FILES, Form
from jaxpu.artifacts.info import model_rows
from jaxpu.config import Config
from jaxpu.config_files import from_json
from jaxpu.core import band_above
from jaxpu.core.network import training_level_db

_CARD = """\
# {target}: a separation model of jaxpu

{description}

It separates a recording into {target} and accompaniment. The network was trained on recordings with the target and on material
without it{stems}.

## Licence

{licence}, for the parameters and this card. The description above states what the licence of the training recordings allows.

## Use

{use}

## Facts

| | |
|---|---|
{table}

{scores}

## Limits

- It works at {rate} Hz. {above}
- {channels}
- It has not been measured on kinds of recordings other than those of its training data and of its scores above.
"""

_ABOVE_A_PROGRAM = "It takes and gives this rate: what a recording has above {nyquist:g} kHz goes to the accompaniment."

_USE_PARAMETERS = """\
With jaxpu {version} or later, without unpacking the archive:

```
jaxpu separate MODEL.zip song.wav -o separated
```

```python
import soundfile
from jaxpu import load_model, separate_waveform

waveform, sample_rate = soundfile.read("song.wav", dtype="float32", always_2d=True)
target = separate_waveform(load_model("MODEL.zip"), waveform.T, sample_rate)  # (channels, samples)
```"""

_USE_PROGRAM = """\
Without jaxpu: `{file}` is a StableHLO program, lowered for CPU, CUDA and TPU, that contains the parameters. Unpack the archive.
It needs only `pip install jax flatbuffers`.

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

Its input is float32 (recordings, channels, samples), any number of each; every shape is compiled once. A recording is separated
as a whole, so memory grows with its length: cut long recordings into overlapping chunks and cross-fade the results.{level}"""

_USE_GRAPH = """\
Without jaxpu: `{file}` is an ONNX graph with the parameters, from STFTs to masks. Unpack the archive. With
`pip install onnxruntime librosa`:

```python
import librosa
import numpy as np
import onnxruntime

sizes = {{"hop_length": {hop}, "win_length": {win}, "window": "{window}"}}
waveform, rate = librosa.load("song.wav", sr={rate}, mono={mono})
waveform = np.tile(np.atleast_2d(waveform), ({channels}, 1))[:{channels}]
mean, deviation = {level}
num_samples = waveform.shape[-1]
whole_hops = np.pad((waveform - mean) / deviation, ((0, 0), (0, -num_samples % {hop})), mode="reflect")
stft = librosa.stft(whole_hops, n_fft={n_fft}, pad_mode="reflect", **sizes)  # ({channels}, bins, frames)
parts = np.stack([stft.real, stft.imag], axis=-1).swapaxes(1, 2)  # ({channels}, frames, bins, 2)
session = onnxruntime.InferenceSession("{file}")
(mask,) = session.run(["{output}"], {{"{input}": {examples}}})  # (examples, frames, bins), from 0 to 1
target = deviation * librosa.istft(mask.swapaxes(1, 2) * stft, n_fft={n_fft}, length=num_samples, **sizes)
np.save("target.npy", target)  # ({channels}, samples); the accompaniment is waveform - target
```

Its input is float32 (examples, {seen}, frames, bins, 2), real and imaginary parts of any number of frames. Memory grows with it:
cut long recordings."""

_CHUNKS_NEED_A_LEVEL = """
Every input is scaled to one level on its own. That of a chunk is not the recording's, which changes the result a little: make
chunks as long as the memory allows."""

_NEEDS_THE_LEVEL = """
Inputs are not scaled: bring a recording to the level of the training set first, and its target back: {level_db:.1f} dB below full
scale (root mean square without pauses)."""


def card(document: dict[str, Any], *, form: Form) -> str:
    """Write the card, in Markdown.

    Args:
        document: of `jaxpu.artifacts.info.describe_run`, with licence and description.
        form: what the archive contains.
    """
    config: Config = from_json(document["config"])
    patch, reasons = config.data.patch, document["info"]["uses_stems"]
    use = _USE_PARAMETERS.format(version=document["jaxpu"])
    level_db = training_level_db(document["info"])
    of_training = "" if patch.level != "reference" or level_db is None else _NEEDS_THE_LEVEL.format(level_db=-level_db)
    if form == "onnx":
        use = _use_of_graph(config) + of_training
    if form == "stablehlo":
        level = of_training if patch.level == "reference" else _CHUNKS_NEED_A_LEVEL
        use = _USE_PROGRAM.format(file=PROGRAM_FILES[form], rate=patch.sample_rate, shortest=patch.n_fft, level=level)
    if not patch.stereo:
        channels = (
            "One mask, computed from the mono downmix, is applied to all channels; sounds out of phase cancel in the downmix."
        )
    elif config.model.sees_all_channels:
        channels = "One mask, computed from all channels, is applied to them."
    else:
        channels = "Channels are separated one by one."
    # Licence and description have sections of their own.
    rows = [(label, text) for label, text in model_rows(document) if label not in ("licence", "about")]
    return _CARD.format(
        target=" and ".join(config.data.target),
        description=document["description"],
        licence=document["licence"],
        stems=f"; stems were used for {', '.join(reasons)}" if reasons else ", never on the target alone",
        use=use,
        table="\n".join(f"| {label} | {text} |" for label, text in rows),
        scores=_score_table(document["scores"]),
        rate=patch.sample_rate,
        above=_ABOVE_A_PROGRAM.format(nyquist=patch.sample_rate / 2000)
        if form != "jaxpu"
        else band_above.in_words(patch.sample_rate),
        channels=channels,
    )


def _use_of_graph(config: Config) -> str:
    patch, channels = config.data.patch, config.data.patch.num_channels
    return _USE_GRAPH.format(
        file=PROGRAM_FILES["onnx"],
        input=onnx.INPUT,
        output=onnx.OUTPUT,
        rate=patch.sample_rate,
        n_fft=patch.n_fft,
        hop=patch.hop_length,
        win=patch.win_length,
        window=patch.window,
        mono=not patch.stereo,
        channels=channels,
        seen=onnx.num_channels(config),
        level="0.0, 1.0" if patch.level == "reference" else "waveform.mean(), waveform.std(ddof=1) or 1.0",
        examples="parts[None]" if config.model.sees_all_channels else "parts[:, None]",
    )


def _score_table(scores: dict[str, Any] | None) -> str:
    if scores is None:
        return "Its scores are unknown: this checkpoint has not been evaluated."

    def cell(summary: dict[str, Any], name: str) -> str:
        value = summary.get(name)
        return "unknown" if value is None else f"{value:.2f}"

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
