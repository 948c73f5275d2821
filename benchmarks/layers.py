"""Time the parts of a layer of the experiments' network on a CPU: with XLA's convolutions, with oneDNN's, and in torch.

    python benchmarks/layers.py

The layer has 16 channels and a kernel of 3 x 3, the input 8 clips of 47 frames and 513 bins.  torch's memory format is
channels_last.  They take turns, and medians count.  The table goes to benchmarks/results/measured/layers.json.
"""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # In no lock: `make bench` installs it.
from speed import medians

from data_pipeline.files import write_text
from jaxpu.core.models.batch_norm import BatchNorm
from jaxpu.core.models.convolution import Convolution, by_onednn, gradient_by_example

RESULTS = Path(__file__).resolve().parent / "results" / "measured" / "layers.json"
SHAPE = (8, 47, 513, 16)
DILATIONS = (1, 2, 4, 8)
PARTS = (
    "convolution",
    "gradient of its inputs",
    "gradient of its kernel",
    "ReLU and batch normalization",
    "these two and their gradient",
)


def main() -> None:
    """Write the table."""
    rows = []
    for dilation in DILATIONS:
        parts = in_jax(dilation, gradient_by_example), in_jax(dilation, by_onednn), in_torch(dilation)
        for name in parts[0]:
            seconds = medians(*(each[name] for each in parts))
            rows.append([name, str(dilation), *(f"{1e3 * each:.1f}" for each in seconds)])
            print(" | ".join(rows[-1]), flush=True)
    table = {
        "commands": ["make bench"],
        "machine": f"In ms, {os.cpu_count()} CPU cores, jax {jax.__version__}, torch {torch.__version__}.",
        "columns": ["part of a layer", "dilation", "XLA", "oneDNN", "torch"],
        "rows": rows,
    }
    write_text(RESULTS, json.dumps(table, indent=1) + "\n")


def in_jax(dilation: int, form: Convolution) -> dict[str, Callable[[], Any]]:
    """The parts as the patch CNN computes them on CPUs, by name; `form` computes the convolutions."""
    inputs = jnp.asarray(random(SHAPE))
    kernel, cotangents = jnp.asarray(random((3, 3, 16, 16))), jnp.asarray(random(SHAPE))

    def convolution(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return form(inputs, kernel, (1, 1), "SAME", rhs_dilation=(dilation,) * 2, dimension_numbers=numbers)

    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), inputs, train=True)

    def normalized(inputs: jax.Array) -> jax.Array:
        return norm.apply(variables, jax.nn.relu(inputs), train=True, mutable=["batch_stats"])[0]

    def pulled_back(function: Callable[..., jax.Array], *inputs: jax.Array) -> Any:
        return jax.vjp(function, *inputs)[1](cotangents)

    parts = (
        jax.jit(convolution),
        jax.jit(lambda inputs, kernel: pulled_back(lambda x: convolution(x, kernel), inputs)),
        jax.jit(lambda inputs, kernel: pulled_back(lambda k: convolution(inputs, k), kernel)),
        jax.jit(lambda inputs, kernel: normalized(inputs)),
        jax.jit(lambda inputs, kernel: pulled_back(normalized, inputs)),
    )
    return {name: functools.partial(finished, part, inputs, kernel) for name, part in zip(PARTS, parts, strict=True)}


def finished(part: Callable[..., Any], *arguments: Any) -> Any:
    """Call a jitted function and wait for it."""
    return jax.block_until_ready(part(*arguments))


def in_torch(dilation: int) -> dict[str, Callable[[], Any]]:
    """The same parts in torch."""
    last: Any = torch.channels_last
    inputs, cotangents = (torch.from_numpy(random(SHAPE)).permute(0, 3, 1, 2).contiguous(memory_format=last) for _ in range(2))
    kernel = torch.from_numpy(random((16, 16, 3, 3))).contiguous(memory_format=last)
    norm = torch.nn.BatchNorm2d(16, affine=False)

    def convolution(inputs: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(inputs, kernel, padding=dilation, dilation=dilation)

    def backward(of: tuple[bool, bool]) -> Any:
        same = [dilation] * 2
        return torch.ops.aten.convolution_backward(
            cotangents, inputs, kernel, None, [1, 1], same, same, False, [0, 0], 1, [*of, False]
        )

    def normalized() -> torch.Tensor:
        with torch.no_grad():
            return norm(torch.relu(inputs))

    def of_normalized() -> Any:
        given = inputs.detach().requires_grad_()
        return torch.autograd.grad(norm(torch.relu(given)), given, cotangents)

    parts = (
        lambda: convolution(inputs, kernel),
        lambda: backward((True, False)),
        lambda: backward((False, True)),
        normalized,
        of_normalized,
    )
    return dict(zip(PARTS, parts, strict=True))


def random(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of unit variance, float32."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


if __name__ == "__main__":
    main()
