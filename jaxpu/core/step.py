"""The pure functions of training: state, training step and evaluation step of a config.  No input or output.

Everything here is a function of its arguments, so that it can be compiled for one device, many, or many runs at once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from data_pipeline.config import PatchSpec
from jaxpu.config import Config, TrainConfig
from jaxpu.config.networks import ModelConfig
from jaxpu.core import metrics
from jaxpu.core.losses import mean, weighted_mean
from jaxpu.core.models import make_model
from jaxpu.core.objectives import Batch, Objective, Taught, Teacher, make_objective, mask_statistics, positives
from jaxpu.core.stft import istft
from jaxpu.core.teacher import LEAK_STEPS, leak, teacher_masks, with_empty_mixtures

STATISTICS_EVERY = 4
"""Steps between updates of the statistics of batch normalisation, each of which is a pass of the network over the mixtures."""

STATISTICS_MOMENTUM = 0.8
"""Share of the old ones that an update keeps; less at first, so that the initial ones are gone at once."""

INIT_STREAM = 0
"""Folded into the run's key for the initial parameters; other streams of random numbers have other numbers."""


@flax.struct.dataclass
class TrainState:
    """All that changes in training, a tree of arrays without a device axis.

    Attributes:
        step: int32, steps done.
        params: of the network, float32.
        batch_stats: statistics of batch normalisation, of what separates over mixtures as they are (`_statistics`); empty without
            it.
        opt_state: of the optimiser.
        ema_params: moving average of `params`; empty without one.
        hyperparameters: of the objective, traced float32 scalars; `learning_rate` among them takes the config's place.
        teacher: variables of the teacher, as `separation_variables` has them; empty without one.
        energies: float32 (2,), mean energies |u|^2 and |p|^2 over the bins of all steps so far, positives as the objective takes
            them.
        leak: float32, moving average of `jaxpu.core.teacher.leak`; 0 without a teacher.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    hyperparameters: dict[str, jax.Array]
    teacher: Any
    energies: jax.Array
    leak: jax.Array


def make_optimizer(config: TrainConfig, learning_rate: jax.Array | None = None) -> optax.GradientTransformation:
    """Adam with the schedule and clipping of the config, and its learning rate unless another one is given."""
    peak: Any = config.learning_rate if learning_rate is None else learning_rate
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
    initialize = _initializer(config.model, config.data.patch, objective.num_outputs)
    variables = initialize(jax.random.fold_in(jax.random.key(config.train.seed), INIT_STREAM))
    params = variables["params"]
    state = TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=make_optimizer(config.train).init(params),
        # A copy: the step gives the memory of the state back, and cannot do so twice.
        ema_params=jax.tree.map(jnp.copy, params) if config.train.ema_decay else {},
        hyperparameters={name: jnp.float32(value) for name, value in objective.hyperparameters.items()},
        teacher={},
        energies=jnp.zeros(2),
        leak=jnp.float32(0),
    )
    if objective.teacher is not None:
        state = dataclasses.replace(state, teacher=jax.tree.map(jnp.copy, separation_variables(config, state)))
    return state


@functools.lru_cache(maxsize=1)
def _initializer(model_config: ModelConfig, patch: PatchSpec, num_outputs: int) -> Callable[[jax.Array], Any]:
    """Key to the variables of a network, compiled once for all runs of a sweep."""
    model = make_model(model_config, patch, num_outputs=num_outputs, dtype=jnp.float32)
    stft = jnp.zeros((1, patch.frames, patch.bins), jnp.complex64)
    return jax.jit(lambda key: model.init(key, stft, jnp.zeros(1, jnp.int32), train=False))


def decode(batch: dict[str, jax.Array]) -> Batch:
    """Stored patches to complex STFT, stereo channels as examples of their own.

    Args:
        batch: `unlabeled`, `positive` and maybe `target`: (n, channels, frames, bins, 2), real and imaginary parts;
            `index`: int32 (n,).
    """

    def to_complex(patches: jax.Array) -> jax.Array:
        parts = patches.astype(jnp.float32)
        spectrum = jax.lax.complex(parts[..., 0], parts[..., 1])  # (n, channels, frames, bins)
        return spectrum.reshape(-1, *spectrum.shape[2:])

    num_channels = batch["unlabeled"].shape[1]
    index = (batch["index"][:, None] * num_channels + jnp.arange(num_channels)[None]).reshape(-1)
    target = to_complex(batch["target"]) if "target" in batch else None
    return Batch(to_complex(batch["unlabeled"]), to_complex(batch["positive"]), target, index)


def _network(config: Config, objective: Objective, axis_name: str | None) -> Any:
    dtype = jnp.bfloat16 if config.train.mixed_precision else jnp.float32
    return make_model(config.model, config.data.patch, num_outputs=objective.num_outputs, dtype=dtype, axis_name=axis_name)


StepFunction = Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(config: Config, optimizer: optax.GradientTransformation | None = None) -> StepFunction:
    """The pure training step of a config.

    Args:
        config: of the run.
        optimizer: in the place of the config's; the state's `opt_state` must be its own.

    Returns:
        (state, batch, key, axis_name=None) to the next state and the step's statistics, float32 scalars.  `batch` is what
        `decode` takes; `key` is the run's: the step folds itself in.  With `axis_name`, the batch is shared by devices.
    """
    objective = make_objective(config.objective)

    def step(
        state: TrainState, batch: dict[str, jax.Array], key: jax.Array, axis_name: str | None = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        model = _network(config, objective, axis_name)
        decoded = decode(batch)
        heard = positives(decoded, state.hyperparameters)
        energies = jnp.stack([_mean_energy(decoded.unlabeled, axis_name), _mean_energy(heard, axis_name)])
        mean_energies = state.energies + (energies - state.energies) / (1.0 + state.step)
        state = dataclasses.replace(state, energies=mean_energies)
        dropout_key, loss_key, teacher_key = jax.random.split(jax.random.fold_in(key, state.step), 3)
        if objective.teacher is not None:
            state, taught, empty = _teach(config, objective, objective.teacher, state, decoded, heard, teacher_key, axis_name)
            decoded = decoded._replace(taught=taught)

        def loss_fn(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
            def network(stft: jax.Array, index: jax.Array) -> jax.Array:
                variables = {"params": params, "batch_stats": state.batch_stats}
                rngs = {"dropout": dropout_key}
                return model.apply(variables, stft, index, train=True, rngs=rngs, mutable=["batch_stats"])[0]

            result = objective.loss(network, decoded, loss_key, state.hyperparameters, axis_name)
            return result.loss, {"loss": result.risk, **result.metrics}

        gradients, statistics = jax.grad(loss_fn, has_aux=True)(state.params)
        if axis_name is not None:
            # The loss already holds a sum over devices, and each device differentiated all of it: average, do not add.
            gradients = jax.lax.pmean(gradients, axis_name)
        chosen = optimizer or make_optimizer(config.train, state.hyperparameters.get("learning_rate"))
        updates, opt_state = chosen.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if config.train.ema_decay:
            # A short memory at first, so that the initial parameters are soon forgotten.
            decay = jnp.minimum(config.train.ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema_params = optax.incremental_update(params, ema_params, 1 - decay)
        statistics["gradient_norm"] = optax.tree.norm(gradients)
        if objective.teacher is not None:
            statistics["leak"], statistics["empty_mixtures"] = state.leak, empty
        statistics["unlabeled_energy"], statistics["positive_energy"] = energies
        next_state = dataclasses.replace(state, step=state.step + 1, params=params, opt_state=opt_state, ema_params=ema_params)
        batch_stats = _statistics(config, model, next_state, decoded.unlabeled)
        return dataclasses.replace(next_state, batch_stats=batch_stats), statistics

    return step


def _statistics(config: Config, model: Any, state: TrainState, unlabeled: jax.Array) -> Any:
    """Statistics of batch normalisation for separating: of the parameters that separate, over mixtures as they are.

    Training needs none, it normalises by the statistics of its own batch.  Those would be wrong for separating: the averaged
    parameters are not the ones that are trained (Izmailov et al. 2018, section 3.2), and the sum of a mixture and a positive is
    louder and denser than the mixture.
    """
    if not jax.tree.leaves(state.batch_stats):
        return state.batch_stats

    def update() -> Any:
        index = jnp.zeros(len(unlabeled), jnp.int32)  # Keys the dropout, which networks with batch normalisation do not have.
        variables = separation_variables(config, state)
        new = model.apply(variables, unlabeled, index, train=True, mutable=["batch_stats"])[1]["batch_stats"]
        updates = state.step // STATISTICS_EVERY  # so far
        kept = jnp.minimum(STATISTICS_MOMENTUM, updates / (1.0 + updates))
        return optax.incremental_update(new, state.batch_stats, 1 - kept)

    return jax.lax.cond(state.step % STATISTICS_EVERY == 1, update, lambda: state.batch_stats)


def _teach(
    config: Config,
    objective: Objective,
    teacher: Teacher,
    state: TrainState,
    batch: Batch,
    positive: jax.Array,
    key: jax.Array,
    axis_name: str | None,
) -> tuple[TrainState, Taught, jax.Array]:
    """Let the teacher of this step hear the mixtures, and the positives at their level.

    Returns:
        The state with that teacher, what it makes of both, and the share of the mixtures in which it finds no target.
    """
    unlabeled = batch.unlabeled
    steps_taught = state.step - teacher.first_step
    has_teacher = steps_taught >= 0
    new_round = has_teacher & (steps_taught % teacher.round_steps == 0)
    variables = jax.tree.map(lambda new, old: jnp.where(new_round, new, old), separation_variables(config, state), state.teacher)

    def teach() -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        model = _network(config, objective, None)
        both = jnp.concatenate([unlabeled, positive])
        logits, positive_logits = jnp.split(model.apply(variables, both, jnp.zeros(len(both), jnp.int32), train=False), 2)
        mask, positive_mask = teacher_masks(logits, positive_logits, unlabeled, positive, state.energies, axis_name)
        newest = leak(mask, positive_mask, unlabeled, positive, axis_name)
        mean_leak = state.leak + (newest - state.leak) / jnp.clip(steps_taught + 1.0, 1, LEAK_STEPS)
        trusted = mean_leak < state.hyperparameters["trusted_leak"]
        empty_share = jnp.where(trusted, state.hyperparameters["empty_share"], 0.0)
        chosen, empty = with_empty_mixtures(mask, unlabeled, positive, batch.example_index, key, empty_share, axis_name)
        return mask.astype(unlabeled.dtype) * unlabeled, chosen, empty, mean_leak

    estimate, chosen, empty, mean_leak = jax.lax.cond(
        has_teacher, teach, lambda: (unlabeled, positive, jnp.float32(0), state.leak)
    )
    state = dataclasses.replace(state, teacher=variables, leak=mean_leak)
    return state, Taught(estimate, has_teacher.astype(jnp.float32), chosen), empty


def _mean_energy(stft: jax.Array, axis_name: str | None) -> jax.Array:
    return mean(jnp.square(jnp.abs(stft)), axis_name)


def separation_variables(config: Config, state: TrainState) -> dict[str, Any]:
    """The variables that separate: averaged parameters where there are any."""
    return {"params": state.ema_params if config.train.ema_decay else state.params, "batch_stats": state.batch_stats}


def make_evaluate_step(config: Config) -> Callable[..., dict[str, jax.Array]]:
    """The pure evaluation of one batch of held-out patches.

    Returns:
        (state, batch, key, axis_name=None) to float32 scalars: `loss` of the objective, without dropout; `kept_energy` and
        `inactive_share` of the mask on plain mixtures; and where the batch has a target `si_sdr_improvement` in dB, the
        mean over clips in which it plays, and `true_kept_energy`, its share of the energy.
    """
    objective = make_objective(config.objective)
    patch = config.data.patch

    def evaluate_step(
        state: TrainState, batch: dict[str, jax.Array], key: jax.Array, axis_name: str | None = None
    ) -> dict[str, jax.Array]:
        model = _network(config, objective, axis_name)
        variables = separation_variables(config, state)
        decoded = decode(batch)

        def network(stft: jax.Array, index: jax.Array) -> jax.Array:
            return model.apply(variables, stft, index, train=False)

        results = {"loss": objective.loss(network, decoded, key, state.hyperparameters, axis_name).risk}
        mask = objective.mask(network(decoded.unlabeled, 2 * decoded.example_index))
        results |= mask_statistics(mask, decoded.unlabeled, axis_name)
        if decoded.target is not None:
            # Up to the centre of the last frame: the samples behind it lie under the end of one window only.
            masked = mask.astype(decoded.unlabeled.dtype) * decoded.unlabeled
            mixture, target, estimate = (
                istft(stft, patch, patch.hop_length * (patch.frames - 1)) for stft in (decoded.unlabeled, decoded.target, masked)
            )
            improvement = metrics.si_sdr(target, estimate) - metrics.si_sdr(target, mixture)
            energy, mixture_energy = jnp.sum(target**2, -1), jnp.sum(mixture**2, -1)
            # SI-SDR means nothing where the target is silent, here 60 dB below the mixture.
            audible = (energy > 1e-6 * mixture_energy).astype(jnp.float32)
            results["si_sdr_improvement"] = weighted_mean(improvement, audible, axis_name)
            results["true_kept_energy"] = weighted_mean(energy / jnp.maximum(mixture_energy, 1e-12), mixture_energy, axis_name)
        return results

    return evaluate_step
