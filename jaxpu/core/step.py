"""The pure functions of training: state, training step and evaluation step of a config.  No input or output.

All of them are functions of their arguments, so that they can be compiled for one device, many, or many runs at once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxpu.config import Config, ConfigError, TrainConfig
from jaxpu.config.networks import ConvolutionForm
from jaxpu.core import metrics
from jaxpu.core.losses import estimated_error, mean, total, weighted_mean
from jaxpu.core.network import input_shape, make_network
from jaxpu.core.objectives import Batch, Network, make_objective, mask_statistics
from jaxpu.core.objectives.augment import fold_in_each
from jaxpu.core.stft import istft, magnitude

RECALIBRATE_EVERY = 4
"""Steps between recalibrations of batch normalization, each of which is a pass of the network over the mixtures."""

RECALIBRATION_MOMENTUM = 0.8
"""Fraction of the old statistics that a recalibration keeps; less at first, so that the initial ones are gone at once."""

INIT_STREAM = 0
"""Folded into the run's key for the initial parameters; other streams of random numbers have other numbers."""


@flax.struct.dataclass
class TrainState:
    """All that changes in training, a tree of arrays without a device axis.

    Attributes:
        step: int32, steps done.
        params: of the network, float32.
        batch_stats: statistics of batch normalization, see `recalibrate`; empty without it.
        opt_state: of the optimizer.
        ema_params: moving average of `params`; empty without one.
        hyperparameters: traced float32 scalars: those of the objective, and `learning_rate`.
        objective_state: state that the objective carries from step to step; empty for most.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    hyperparameters: dict[str, jax.Array]
    objective_state: Any


def make_optimizer(config: TrainConfig, learning_rate: jax.Array | float) -> optax.GradientTransformation:
    """Adam with the schedule and clipping of the config.

    Args:
        config: how to train.
        learning_rate: peak of the schedule, instead of the config's.
    """
    peak: Any = learning_rate
    if config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(peak, max(config.num_steps - config.warmup_steps, 1))
    else:
        schedule = optax.constant_schedule(peak)
    if config.warmup_steps:
        warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
        schedule = optax.join_schedules([warmup, schedule], [config.warmup_steps])
    clip = [] if config.gradient_clip is None else [optax.clip_by_global_norm(config.gradient_clip)]
    return optax.chain(*clip, optax.adam(schedule))


def init_state(config: Config) -> TrainState:
    """The state before the first step, a function of the config and its seed."""
    objective = make_objective(config.objective)
    # The learning rate and the seed do not change the program: runs of a sweep share it.
    key = jax.random.fold_in(jax.random.key(config.train.seed), INIT_STREAM)
    variables = _initializer(make_network(config, objective.num_outputs), input_shape(config))(key)
    params = variables["params"]
    numbers = objective.hyperparameters | {"learning_rate": config.train.learning_rate}
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=make_optimizer(config.train, config.train.learning_rate).init(params),
        # A copy: the step donates the memory of the state, and cannot do so twice.
        ema_params=jax.tree.map(jnp.copy, params) if config.train.ema_decay else {},
        hyperparameters={name: jnp.float32(value) for name, value in numbers.items()},
        objective_state=objective.init_state(),
    )


@functools.lru_cache(maxsize=1)
def _initializer(network: nn.Module, shape: tuple[int, ...]) -> Callable[[jax.Array], Any]:
    """Key to the variables of a network, compiled once for all runs of a sweep."""
    # Zeros of NumPy: those of JAX would be traced where the first call is within a trace, and the cache would keep the tracer.
    stft = np.zeros(shape, np.complex64)
    return jax.jit(lambda key: network.init(key, stft, train=False))


def decode(batch: dict[str, jax.Array], *, all_channels: bool = False) -> Batch:
    """Convert stored patches to complex STFTs.

    Args:
        batch: `unlabeled`, `positive` and maybe `target`: (n, channels, frames, bins, 2), real and imaginary parts;
            `index`: int32 (n,); maybe `marked`: bool (n,).
        all_channels: an example has all channels of its clip; else each channel is an example of its own, with one channel.
    """

    def to_complex(patches: jax.Array) -> jax.Array:
        parts = patches.astype(jnp.float32)
        spectrum = jax.lax.complex(parts[..., 0], parts[..., 1])  # (n, channels, frames, bins)
        return spectrum if all_channels else spectrum.reshape(-1, 1, *spectrum.shape[2:])

    examples = 1 if all_channels else batch["unlabeled"].shape[1]  # of a clip
    index = (batch["index"][:, None] * examples + jnp.arange(examples)[None]).reshape(-1)
    target = to_complex(batch["target"]) if "target" in batch else None
    marked = jnp.repeat(batch["marked"], examples) if "marked" in batch else None
    return Batch(to_complex(batch["unlabeled"]), to_complex(batch["positive"]), target, index, marked)


def separation_variables(config: Config, state: TrainState) -> dict[str, Any]:
    """The variables that a run separates with: averaged parameters where there are any."""
    return {"params": state.ema_params if config.train.ema_decay else state.params, "batch_stats": state.batch_stats}


StepFunction = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(config: Config, convolution: ConvolutionForm = "xla") -> StepFunction:
    """The pure training step of a config.

    Args:
        config: run configuration.
        convolution: form in which convolutions are computed.

    Returns:
        (state, batch, key, axis_name=None) to the next state and the step's statistics, float32 scalars.  `batch` is what
        `decode` takes; `key` is that of the run; the function folds the step into it.  With `axis_name`, devices share the
        batch.
    """
    objective = make_objective(config.objective)

    def step(
        state: TrainState, batch: dict[str, jax.Array], key: jax.Array, axis_name: str | None = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        network = make_network(config, objective.num_outputs, axis_name=axis_name, convolution=convolution)
        dropout_key, loss_key, prepare_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
        plain = objective.level(decode(batch, all_channels=config.model.sees_all_channels), state.hyperparameters)
        energies = {f"{name}_energy": _mean_energy(getattr(plain, name), axis_name) for name in ("unlabeled", "positive")}
        separate = _separating(config, network, state)
        objective_state, prepared, prepare_metrics = objective.prepare(
            state.objective_state, plain, separate, state.hyperparameters, prepare_key, axis_name
        )

        def loss_fn(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            def trained(stft: jax.Array, index: jax.Array) -> jax.Array:
                variables = {"params": params, "batch_stats": state.batch_stats}
                return network.apply(variables, stft, fold_in_each(dropout_key, index), train=True, mutable=["batch_stats"])[0]

            network_in_parts = in_parts(trained, config.train.clips_at_once)
            result = objective.loss(network_in_parts, prepared, loss_key, state.hyperparameters, axis_name)
            return result.loss, {"loss": result.risk, **result.metrics}

        gradients, statistics = jax.grad(loss_fn, has_aux=True)(state.params)
        if axis_name is not None:
            # The loss already holds a sum over devices, and each device differentiated all of it: average, do not add.
            gradients = jax.lax.pmean(gradients, axis_name)
        optimizer = make_optimizer(config.train, state.hyperparameters["learning_rate"])
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        next_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema_params=_averaged(config.train.ema_decay, state, params),
            objective_state=objective_state,
        )
        batch_stats = recalibrate(config, network, next_state, plain.unlabeled)
        statistics |= energies | prepare_metrics | {"gradient_norm": optax.tree.norm(gradients)}
        return dataclasses.replace(next_state, batch_stats=batch_stats), statistics

    return step


def _separating(config: Config, network: nn.Module, state: TrainState) -> Network:
    """The network of a state as it separates: averaged parameters, no dropout."""
    variables = separation_variables(config, state)

    def separate(stft: jax.Array, index: jax.Array) -> jax.Array:
        del index  # It keys the dropout.
        return cast(jax.Array, network.apply(variables, stft, train=False))

    return in_parts(separate, config.train.clips_at_once)


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number up to a limit: the size of equal parts.  0 for a limit of 0."""
    return max((divisor for divisor in range(1, limit + 1) if number % divisor == 0), default=0)


def in_parts(network: Network, size: int) -> Network:
    """A network that takes at most `size` examples at once, 0 for all, and keeps the activations of none (Chen et al. 2016).

    The logits of all parts are there before the loss is computed: sums, counts and clamps are those of the whole batch.
    """

    def network_in_parts(stft: jax.Array, example_index: jax.Array) -> jax.Array:
        num = len(stft)
        part = largest_divisor(num, min(size or num, num))
        if part == num:
            return network(stft, example_index)
        if 2 * part < size:
            raise ConfigError(
                f"TrainConfig.clips_at_once is {size}; the largest number up to it that divides the {num} clips of a device is "
                f"{part}. Choose a divisor of {num}, or another batch_size."
            )
        parts = [array.reshape(-1, part, *array.shape[1:]) for array in (stft, example_index)]
        logits = jax.lax.map(jax.checkpoint(lambda arguments: network(*arguments), prevent_cse=False), tuple(parts))
        return logits.reshape(num, *logits.shape[2:])

    return network_in_parts


def _averaged(decay: float, state: TrainState, params: Any) -> Any:
    """The next moving average of the parameters."""
    if not decay:
        return state.ema_params
    # A short memory at first, so that the initial parameters are soon forgotten.
    decay_now = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    return optax.incremental_update(params, state.ema_params, 1 - decay_now)


def recalibrate(config: Config, network: nn.Module, state: TrainState, unlabeled: jax.Array) -> Any:
    """Update the statistics of batch normalization that a run separates with.

    Training normalizes by the statistics of its own batch.  Those would be wrong for separation: it uses the averaged parameters,
    not the trained ones (Izmailov et al. 2018, section 3.2), and its input is a mixture, while `remix` trains on the louder and
    denser sum of a mixture and a positive.  So the averaged network runs on plain mixtures, whose statistics are averaged.  It
    takes no more of them at once than training does, and normalizes as many together.

    Args:
        config: run configuration.
        network: its `needs_recalibration` decides whether there is anything to do.
        state: after the step; its `batch_stats` are those before.
        unlabeled: complex64 (n, channels, frames, bins), mixtures of this step.

    Returns:
        The next `batch_stats`.
    """
    if not network.needs_recalibration:
        return state.batch_stats

    def update() -> Any:
        variables = separation_variables(config, state)
        new = _batch_statistics(network, variables, unlabeled, config.train.clips_at_once)
        updates = state.step // RECALIBRATE_EVERY  # so far
        kept = jnp.float32(RECALIBRATION_MOMENTUM)
        if not config.train.init_from:  # The first statistics are none; those of a first model are averages already.
            kept = jnp.minimum(kept, updates / (1.0 + updates))
        return optax.incremental_update(new, state.batch_stats, 1 - kept)

    return jax.lax.cond(state.step % RECALIBRATE_EVERY == 1, update, lambda: state.batch_stats)


def _batch_statistics(network: nn.Module, variables: Any, stft: jax.Array, size: int) -> Any:
    """Statistics of batch normalization over mixtures; with a `size`, the mean of those of parts of at most that many."""

    def statistics(part: jax.Array) -> Any:
        return network.apply(variables, part, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    part = largest_divisor(len(stft), min(size or len(stft), len(stft)))
    if part == len(stft):
        return statistics(stft)
    return jax.tree.map(lambda leaf: leaf.mean(0), jax.lax.map(statistics, stft.reshape(-1, part, *stft.shape[1:])))


def _mean_energy(stft: jax.Array, axis_name: str | None) -> jax.Array:
    return mean(jnp.square(magnitude(stft)), axis_name)


def make_evaluate_step(config: Config, convolution: ConvolutionForm = "xla") -> Callable[..., dict[str, jax.Array]]:
    """The pure evaluation of one batch of held-out patches.

    Returns:
        (state, batch, key, axis_name=None) to float32 scalars: `loss` of the objective, without dropout; `estimated_error` of
        the mask on mixtures with a positive added; `kept_energy` and `inactive_share` of the mask on plain mixtures; and where
        the batch has a target `si_sdr_improvement` in dB, the mean over clips in which it plays, and `true_kept_energy`, its
        fraction of the energy; `audible_clips` is the number of these clips.
    """
    objective = make_objective(config.objective)

    def evaluate_step(
        state: TrainState, batch: dict[str, jax.Array], key: jax.Array, axis_name: str | None = None
    ) -> dict[str, jax.Array]:
        network = make_network(config, objective.num_outputs, axis_name=axis_name, convolution=convolution)
        separate = _separating(config, network, state)
        decoded = decode(batch, all_channels=config.model.sees_all_channels)
        leveled = objective.level(decoded, state.hyperparameters)
        results = {"loss": objective.loss(separate, leveled, key, state.hyperparameters, axis_name).risk}
        mask_of_sum = objective.mask(separate(leveled.unlabeled + leveled.positive, 2 * leveled.example_index))
        results["estimated_error"] = estimated_error(mask_of_sum, leveled.unlabeled, leveled.positive, axis_name=axis_name)
        mask = objective.mask(separate(decoded.unlabeled, 2 * decoded.example_index))
        results |= mask_statistics(mask, decoded.unlabeled, axis_name)
        return results if decoded.target is None else results | _scores(config, mask, decoded, axis_name)

    return evaluate_step


def _scores(config: Config, mask: jax.Array, batch: Batch, axis_name: str | None) -> dict[str, jax.Array]:
    """Scores of masked mixtures against the targets of a batch; see `make_evaluate_step`."""
    assert batch.target is not None
    patch = config.data.patch
    masked = mask[:, None].astype(batch.unlabeled.dtype) * batch.unlabeled
    # Up to the centre of the last frame: the samples behind it lie under the end of one window only.
    mixture, target, estimate = (
        istft(stft, patch, patch.hop_length * (patch.frames - 1)).reshape(len(stft), -1)  # all channels as one signal
        for stft in (batch.unlabeled, batch.target, masked)
    )
    improvement = metrics.si_sdr(target, estimate) - metrics.si_sdr(target, mixture)
    energy, mixture_energy = jnp.sum(target**2, -1), jnp.sum(mixture**2, -1)
    # SI-SDR is not defined where the target is silent: here, 60 dB below the mixture.
    audible = (energy > 1e-6 * mixture_energy).astype(jnp.float32)
    return {
        # Without a sound it is NaN, and NaN times a weight of 0 is NaN.
        "si_sdr_improvement": weighted_mean(jnp.where(audible > 0, improvement, 0.0), audible, axis_name),
        "audible_clips": total(audible, axis_name),
        "true_kept_energy": weighted_mean(energy / jnp.maximum(mixture_energy, 1e-12), mixture_energy, axis_name),
    }
