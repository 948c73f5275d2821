"""Measure training and separation on one GPU, with torch beside it where it is installed.  It needs no TensorFlow.

    python benchmarks/gpu.py --results FILE [--songs DIR] [--minutes 8]

Measured are the rates of matrix products and of memory; a training step of every network and objective in float32 and bfloat16;
the same network in torch (channels_last, compiled, automatic mixed precision); the peak memory by clips; eight runs under vmap
against eight in a row; separation, transfers included; and the training of the network of `musdb18` on songs, with stems and
without, scored on those held out.  DIR has SONG/mixture.ogg and SONG/accompaniment.ogg.  What was measured is written after each
row, so that a run that is cut off keeps it; what does not fit into the minutes is left out, and said.  `--small` tries everything
on a CPU.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipeline.files import write_text
from jaxpu.artifacts.checkpoints import TrainedModel
from jaxpu.config import BootstrapConfig, Config, PatchCNNConfig, PNUConfig, RemixConfig, SupervisedConfig
from jaxpu.config_files import load_config
from jaxpu.core import metrics
from jaxpu.core.network import make_separate
from jaxpu.core.step import init_state, make_train_step, separation_variables
from jaxpu.core.stft import stft
from jaxpu.parallel import convolution_form, memory_limit_bytes
from jaxpu.separation.files import separate_waveform
from jaxpu.training.sweep import make_group_steps

REPEATS = 10
CONFIGS = ("demo", "demo_remix", "demo_supervised", "demo_pu", "recordings", "baseline", "band_split_rnn", "musdb18")
CLIPS = (4, 8, 16, 32)
RUNS = 8
HELD_OUT = 6
LONG_S = 180


class Report:
    """Rows that are written as they come, until the time is up."""

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.end = path, time.monotonic() + 60 * minutes
        self.rows: list[list[str]] = []

    def measure(self, name: str, work: Callable[[], str], *, at_least_s: float = 30) -> None:
        """Add a row, or say why there is none."""
        if self.end - time.monotonic() < at_least_s:
            result = "left out: the time is up"
        else:
            try:
                result = work()
            except Exception as error:  # The other measurements go on.
                result = f"failed: {str(error).splitlines()[0][:200]}"
        self.rows.append([name, result])
        print(f"{name}: {result}", flush=True)
        machine = f"{jax.devices()[0].device_kind}, jax {jax.__version__}; medians of {REPEATS}."
        table = {
            "commands": ["python benchmarks/gpu.py --songs DIR"],
            "machine": machine,
            "columns": ["", "measured"],
            "rows": self.rows,
        }
        write_text(self.path, json.dumps(table, indent=1) + "\n")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--songs", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--small", action="store_true", help="small networks, clips and songs")
    arguments = parser.parse_args(args)
    report = Report(arguments.results, arguments.minutes)
    rates: dict[str, float] = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        size = 512 if arguments.small else 8192
        report.measure(f"matrix product, {dtype.dtype.name}", partial(matrix_rate, dtype, rates, size))
    report.measure("memory, read and written", partial(memory_rate, 2**24 if arguments.small else 2**30))
    for name in CONFIGS:
        for mixed in (False, True):
            config = with_train(loaded(name), mixed_precision=mixed, clips_at_once=0)
            config = shrunk(config) if arguments.small else config
            report.measure(f"step, {name}, {dtype_name(mixed)}", partial(step_in_words, config, rates))
    network = loaded("demo_supervised")
    for compiled, mixed in ((False, False), (True, False), (True, True)):
        name = f"torch, network and loss of demo_supervised, channels_last{', compiled' * compiled}, {dtype_name(mixed)}"
        report.measure(name, partial(torch_step, network, compiled=compiled, mixed=mixed))
    for clips in CLIPS:
        config = with_train(loaded("musdb18"), batch_size=clips, clips_at_once=0)
        config = shrunk(config) if arguments.small else config
        report.measure(f"peak memory, musdb18, {clips} + {clips} clips", partial(peak_memory, config))
    demo = shrunk(loaded("demo")) if arguments.small else loaded("demo")
    report.measure(f"{RUNS} runs of demo under vmap, and one after the other", partial(vmap_in_words, demo))
    for name in ("recordings", "musdb18"):
        config = shrunk(loaded(name)) if arguments.small else loaded(name)
        report.measure(f"separation, {name}", partial(separation_in_words, config, 6 if arguments.small else LONG_S))
    if arguments.songs is not None:
        songs = read_songs(arguments.songs)
        for objective in (SupervisedConfig(loss="ratio_mask", remix_songs=True), BootstrapConfig(labels="ratio")):
            kind = type(objective).__name__.removesuffix("Config").lower()
            config = dataclasses.replace(loaded("musdb18"), objective=objective)
            config = shrunk(config) if arguments.small else config
            seconds = (report.end - time.monotonic()) / (2 if kind == "supervised" else 1) - 20
            report.measure(f"training of musdb18, {kind}", partial(trained, config, songs, seconds), at_least_s=60)


def dtype_name(mixed: bool) -> str:
    """Type in which a network is computed."""
    return "bfloat16" if mixed else "float32"


def loaded(name: str) -> Config:
    """A config that ships, with levels that need no data."""
    config = load_config(name)
    if not isinstance(config.objective, RemixConfig | BootstrapConfig | PNUConfig):
        return config
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, positive_gain_db=0.0))


def with_train(config: Config, **fields: Any) -> Config:
    """The config with other fields of its training."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **fields))


def shrunk(config: Config) -> Config:
    """A config that a CPU trains in seconds: short clips, two of each kind, a network of few channels."""
    patch = config.data.patch
    clip_samples = max(4 * patch.hop_length, patch.n_fft)
    model: Any = config.model
    sizes: dict[str, dict[str, Any]] = {
        "PatchCNNConfig": {"channels": 2},
        "UNetConfig": {"channels": (2, 2)},
        "BandSplitRNNConfig": {"channels": 4, "repeats": 1, "hidden": 4, "mask_hidden": 4},
    }
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, patch=dataclasses.replace(patch, clip_samples=clip_samples)),
        model=dataclasses.replace(model, **sizes[type(model).__name__]),
    )
    return with_train(config, batch_size=2, clips_at_once=0)


def seconds_of(function: Callable[..., Any], *arguments: Any) -> float:
    """Median time of a call, without the first one, which compiles."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        since = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - since)
    return float(np.median(times))


def matrix_rate(dtype: Any, rates: dict[str, float], size: int) -> str:
    """Rate of a product of square matrices of random numbers; kept by type."""
    left, right = (jax.random.normal(jax.random.key(seed), (size, size)).astype(dtype) for seed in (0, 1))
    rates[jnp.dtype(dtype).name] = 2 * size**3 / seconds_of(jax.jit(jnp.matmul), left, right)
    return f"{rates[jnp.dtype(dtype).name] / 1e12:.1f} TFLOP/s"


def memory_rate(size: int) -> str:
    """Rate at which an array of float32 is read and written."""
    values = jax.random.normal(jax.random.key(0), (size,))
    return f"{8 * size / seconds_of(jax.jit(lambda array: array + 1), values) / 1e9:.0f} GB/s"


def batch_of(config: Config) -> dict[str, jax.Array]:
    """A batch of noise on the device."""
    patch, clips = config.data.patch, config.train.batch_size
    drawn = np.random.default_rng(0).standard_normal((3, clips, *patch.patch_shape), dtype=np.float32).astype(patch.dtype)
    batch = {
        "unlabeled": drawn[0] + drawn[1],
        "positive": drawn[1],
        "target": drawn[0],
        "index": np.arange(clips, dtype=np.int32),
    }
    return jax.device_put(batch)


def compiled_step(config: Config) -> tuple[Any, tuple[Any, ...]]:
    """The compiled training step and its arguments; a teacher, where there is one, teaches from the first step."""
    if isinstance(config.objective, BootstrapConfig):
        config = dataclasses.replace(config, objective=dataclasses.replace(config.objective, remix_steps=0))
    arguments = (init_state(config), batch_of(config), jax.random.key(0))
    return jax.jit(make_train_step(config, convolution_form())).lower(*arguments).compile(), arguments


def step_in_words(config: Config, rates: dict[str, float]) -> str:
    """Time of a step, and its share of the rate of matrix products."""
    step, arguments = compiled_step(config)
    seconds = seconds_of(step, *arguments)
    operations = (step.cost_analysis() or {}).get("flops", 0.0)
    share = operations / seconds / rates.get(dtype_name(config.train.mixed_precision), np.inf)
    return (
        f"{1e3 * seconds:.1f} ms with {config.train.batch_size} + {config.train.batch_size} clips, {share:.1%} of the matrix rate"
    )


def peak_memory(config: Config) -> str:
    """Memory of a step by XLA's analysis, and the most that was in use on the device after it."""
    step, arguments = compiled_step(config)
    analysis = step.memory_analysis()
    needed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    jax.block_until_ready(step(*arguments))
    used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    limit = memory_limit_bytes()
    return f"{needed / 1e9:.2f} GB" + (f"; {used / 1e9:.2f} of {limit / 1e9:.0f} GB in use so far" if used and limit else "")


def torch_step(config: Config, *, compiled: bool, mixed: bool) -> str:
    """Time of a training step of the same network in torch."""
    step = torch_training_step(config, config.train.batch_size, compiled=compiled, mixed=mixed)
    for _ in range(3):
        step()
    times = []
    for _ in range(REPEATS):
        since = time.perf_counter()
        step()
        times.append(time.perf_counter() - since)
    return f"{1e3 * float(np.median(times)):.1f} ms with {config.train.batch_size} clips"


def torch_training_step(
    config: Config, clips: int, *, compiled: bool = False, mixed: bool = False, channels_last: bool = True
) -> Callable[[], None]:
    """A training step of the same patch CNN in torch: magnitudes in, error of a ratio mask, Adam."""
    import torch  # In no lock: only benchmarks compare with it.

    model, patch = config.model, config.data.patch
    assert isinstance(model, PatchCNNConfig)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    layers: list[Any] = []
    channels = 1
    for width, kernel_size, dilation in model.convolutions:
        same = tuple(each * (size // 2) for each, size in zip(dilation, kernel_size, strict=True))
        normalized = model.normalization == "batch"
        layers += [
            torch.nn.Conv2d(channels, width, kernel_size, padding=same, dilation=dilation),
            torch.nn.ReLU(),
            torch.nn.BatchNorm2d(width) if normalized else torch.nn.Dropout2d(model.dropout_rate),
        ]
        channels = width
    size = model.output_kernel_size
    network: Any = torch.nn.Sequential(*layers, torch.nn.Conv2d(channels, 1, size, padding=size // 2))
    network = network.to(device, memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters())
    called = torch.compile(network) if compiled else network
    mixture, target = (torch.rand(clips, 1, patch.frames, patch.bins, device=device) for _ in range(2))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=mixed):
            logits = called(torch.log(mixture + 0.01).to(memory_format=layout))
        torch.mean(torch.abs(torch.sigmoid(logits.float()) * mixture - target)).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def vmap_in_words(config: Config) -> str:
    """Time of a step of many runs under vmap, and of as many steps in a row."""
    one, arguments = compiled_step(config)
    alone = RUNS * seconds_of(one, *arguments)
    many, _ = make_group_steps(config, convolution_form())
    state, batch, key = arguments
    states = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (1, RUNS, *leaf.shape)).copy(), state)
    batches = jax.tree.map(lambda leaf: leaf[None], batch)
    active, keys = jnp.ones((1, RUNS), bool), key[None]
    times = []
    for _ in range(REPEATS + 1):  # The states are donated.
        since = time.perf_counter()
        states, _ = jax.block_until_ready(many(states, active, batches, keys))
        times.append(time.perf_counter() - since)
    together = float(np.median(times[1:]))
    return f"{1e3 * together:.1f} and {1e3 * alone:.1f} ms, a ratio of {alone / together:.2f}"


def separation_in_words(config: Config, seconds: int) -> str:
    """Speed of separation from samples on the host to samples on the host, without reading and writing files."""
    state = init_state(config)
    model = TrainedModel(config, jax.device_get(separation_variables(config, state)), {})
    rate = config.data.patch.sample_rate
    waveform = np.random.default_rng(0).standard_normal((2, seconds * rate), dtype=np.float32)
    separate_waveform(model, waveform[:, : 6 * rate], rate)
    since = time.perf_counter()
    separate_waveform(model, waveform, rate)
    return f"{seconds / (time.perf_counter() - since):.0f} times real time, {seconds} s of stereo"


def read_songs(folder: Path) -> dict[str, np.ndarray]:
    """Mixtures and accompaniments: int16 (songs, channels, samples) each, as long as the shortest song."""
    import soundfile

    found = {
        name: [soundfile.read(song / f"{name}.ogg", dtype="int16", always_2d=True)[0].T for song in sorted(folder.iterdir())]
        for name in ("mixture", "accompaniment")
    }
    length = min(song.shape[1] for songs in found.values() for song in songs)
    return {name: np.stack([song[:, :length] for song in songs]) for name, songs in found.items()}


def trained(config: Config, songs: dict[str, np.ndarray], seconds: float) -> str:
    """Train for some seconds, and score the last songs; the others give the mixtures and, without stems, half of them each kind.

    The loop draws clips from songs that lie in the memory of the device, where `jaxpu train` reads prepared data.
    """
    patch, clips = config.data.patch, config.train.batch_size
    num, length = len(songs["mixture"]) - HELD_OUT, songs["mixture"].shape[2]
    half = num // 2 if isinstance(config.objective, BootstrapConfig) else num
    mixtures, accompaniments = (jnp.asarray(songs[name][:num]) for name in ("mixture", "accompaniment"))
    level = float(np.sqrt(np.mean(np.square(songs["mixture"][:num].astype(np.float32)))))

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        def clip(source: jax.Array, song: jax.Array, begin: jax.Array) -> jax.Array:
            found = jax.lax.dynamic_slice(source, (song, 0, begin), (1, source.shape[1], patch.clip_samples))[0]
            spectrum = stft(found.astype(jnp.float32) / level, patch)
            return jnp.stack([spectrum.real, spectrum.imag], -1).astype(patch.dtype)

        keys = jax.random.split(key, 4)
        begins = jax.random.randint(keys[0], (2, clips), 0, length - patch.clip_samples)
        of_mixtures = jax.random.randint(keys[1], (clips,), 0, half)
        of_positives = jax.random.randint(keys[2], (clips,), num - half, num)
        unlabeled = jax.vmap(clip, (None, 0, 0))(mixtures, of_mixtures, begins[0])
        target = unlabeled - jax.vmap(clip, (None, 0, 0))(accompaniments, of_mixtures, begins[0])
        positive = jax.vmap(clip, (None, 0, 0))(accompaniments, of_positives, begins[1])
        return {"unlabeled": unlabeled, "positive": positive, "target": target, "index": jnp.arange(clips)}

    def planned(steps: int) -> Config:
        planned_config = with_train(config, num_steps=steps, warmup_steps=min(config.train.warmup_steps, steps // 10))
        if isinstance(config.objective, BootstrapConfig):
            return dataclasses.replace(planned_config, objective=dataclasses.replace(config.objective, remix_steps=steps // 3))
        return planned_config

    # How many steps fit decides the schedule of the learning rate.
    arguments = init_state(planned(1000)), jax.jit(draw)(jax.random.key(0)), jax.random.key(0)
    since = time.monotonic()
    a_step = seconds_of(jax.jit(make_train_step(planned(1000), convolution_form())), *arguments)
    steps = max(20, int((seconds - 2 * (time.monotonic() - since)) / (1.3 * a_step)))
    final = planned(steps)
    train_step = make_train_step(final, convolution_form())
    step = jax.jit(lambda state, key: train_step(state, draw(jax.random.fold_in(key, state.step)), key)[0], donate_argnums=0)
    state = init_state(final)
    for _ in range(steps):
        state = step(state, jax.random.key(1))
    variables = jax.device_get(separation_variables(final, state))
    improvements = list(scores(final, variables, songs, level))
    return f"{steps} steps of {1e3 * a_step:.0f} ms, SI-SDR improvement on {HELD_OUT} songs {np.mean(improvements):.1f} dB"


def scores(config: Config, variables: Any, songs: dict[str, np.ndarray], level: float) -> Iterator[float]:
    """SI-SDR improvement of each song held out, in dB."""
    separate = jax.jit(make_separate(config, convolution_form()), static_argnums=3)
    for mixture, accompaniment in zip(songs["mixture"][-HELD_OUT:], songs["accompaniment"][-HELD_OUT:], strict=True):
        whole, rest = (jnp.asarray(each, jnp.float32) / level for each in (mixture, accompaniment))
        estimate = separate(variables, whole, whole, whole.shape[1])
        target, estimate, mixed = (each.reshape(1, -1) for each in (whole - rest, estimate, whole))
        yield float((metrics.si_sdr(target, estimate) - metrics.si_sdr(target, mixed))[0])


if __name__ == "__main__":
    main()
