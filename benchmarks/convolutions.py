"""Time convolutions as XLA computes them and in the forms of jaxpu/core/models/convolution.py, on the first device.

    python benchmarks/convolutions.py --clips 24

The table has milliseconds for the value and gradient of one layer of the experiments' network, and for a training step of
`bootstrap` with a teacher, of `remix` and of `pu`, with all convolutions of the network in that form.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from experiments import BOOTSTRAP, MODEL, PATCH, REMIX, config_of

from jaxpu import onednn
from jaxpu.config import PUConfig
from jaxpu.config.networks import ConvolutionForm
from jaxpu.core.models.convolution import by_onednn, by_phases, gradient_by_example
from jaxpu.core.step import init_state, make_train_step

FORMS: dict[ConvolutionForm, Callable[..., jax.Array]] = {
    "xla": jax.lax.conv_general_dilated,
    "phases": by_phases,
    "gradient_by_example": gradient_by_example,
}
if jax.default_backend() == "cpu" and not onednn.why_missing():
    FORMS["onednn"] = by_onednn
OBJECTIVES = {
    "bootstrap": dataclasses.replace(BOOTSTRAP, remix_steps=0),
    "remix": REMIX,
    "pu": PUConfig(class_prior=0.7, mask="soft"),
}
DTYPES = (jnp.float32, jnp.bfloat16)
REPEATS = 20


def main(args: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24, help="mixtures, and positives, of a batch")
    clips = parser.parse_args(args).clips
    print(f"{jax.devices()[0].device_kind}, {clips} clips, ms (median of {REPEATS})")
    for dtype in DTYPES:
        for dilation in sorted(set(MODEL.dilations)):
            times = [milliseconds(*layer(form, clips, dilation, dtype)) for form in FORMS.values()]
            show(f"layer, {dtype.dtype.name}, dilation {dilation[0]}", times)
    for name, objective in OBJECTIVES.items():
        show(f"step, {name}", [milliseconds(*step(form, clips, objective)) for form in FORMS])


def show(name: str, times: Sequence[float]) -> None:
    """Print one line with a time for each form."""
    print(f"{name}: " + ", ".join(f"{form} {time:.2f}" for form, time in zip(FORMS, times, strict=True)), flush=True)


def layer(form: Callable[..., jax.Array], clips: int, dilation: tuple[int, int], dtype: Any) -> tuple[Callable[..., Any], Any]:
    """Value and gradient of a convolution, jitted, and its arguments."""
    channels = MODEL.channels
    key = jax.random.key(0)
    inputs = jax.random.normal(key, (clips, PATCH.frames, PATCH.bins, channels)).astype(dtype)
    kernel = jax.random.normal(key, (*MODEL.kernel_size, channels, channels)).astype(dtype)

    def value(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        outputs = form(inputs, kernel, (1, 1), "SAME", rhs_dilation=dilation, dimension_numbers=numbers)
        return jnp.sum(jnp.square(outputs.astype(jnp.float32)))

    return jax.jit(jax.value_and_grad(value, (0, 1))), (inputs, kernel)


def step(form: ConvolutionForm, clips: int, objective: Any) -> tuple[Callable[..., Any], Any]:
    """A training step in this form, jitted, and its arguments."""
    config = config_of(objective, "vocals", 0, batch_size=clips)
    patches = np.random.default_rng(0).standard_normal((2, clips, *PATCH.patch_shape)).astype(PATCH.dtype)
    batch = {"unlabeled": patches[0], "positive": patches[1], "index": np.arange(clips, dtype=np.int32)}
    return jax.jit(make_train_step(config, form)), (init_state(config), jax.device_put(batch), jax.random.key(0))


def milliseconds(function: Callable[..., Any], arguments: Any) -> float:
    """Median time of a call, without the first one."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(REPEATS):
        since = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - since)
    return 1e3 * float(np.median(times))


if __name__ == "__main__":
    main()
