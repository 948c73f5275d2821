"""Training: a pure step, and one loop around it.  One script for CPU, GPU and TPU, one device or many."""

import contextlib
import dataclasses
import functools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm.auto import tqdm

from data_pipeline.batches import PatchDataset
from jaxpu import metrics, parallel
from jaxpu.checkpoints import RunCheckpoints
from jaxpu.config import Config, ConfigError, TrainConfig, to_json, uses_stems
from jaxpu.losses import mean, weighted_mean
from jaxpu.models import make_model
from jaxpu.objectives import Batch, Objective, Taught, Teacher, make_objective, mask_statistics, positives
from jaxpu.prior import with_estimate
from jaxpu.run_log import RunLog, StopSignal
from jaxpu.stft import istft
from jaxpu.watchdog import Watchdog

LOG_EVERY = 20
"""Steps between reads of the statistics from the device; reading every step would make the device wait for the host."""

ALL_STEPS_DONE = "all steps done"
ASKED_TO_STOP = "asked to stop; run the same command again to go on"

# Streams of random numbers, folded into the run's key so that they never meet.
_INIT, _TRAIN, _EVALUATE = range(3)


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the reason."""


@flax.struct.dataclass
class TrainState:
    """All that changes in training, a tree of arrays without a device axis.

    Attributes:
        step: int32, steps done.
        params: of the network, float32.
        batch_stats: running statistics of batch normalisation; empty without it.
        opt_state: of the optimiser.
        ema_params: moving average of `params`; empty without one.
        hyperparameters: of the objective, traced float32 scalars; `learning_rate` among them takes the config's place.
        teacher: variables of the teacher, as `separation_variables` has them; empty without one.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema_params: Any
    hyperparameters: dict[str, jax.Array]
    teacher: Any


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
    initialize = _initializer(config.model, objective.num_outputs, config.data.patch.frames, config.data.patch.bins)
    variables = initialize(jax.random.fold_in(jax.random.key(config.train.seed), _INIT))
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
    )
    if objective.teacher is not None:
        state = dataclasses.replace(state, teacher=jax.tree.map(jnp.copy, separation_variables(config, state)))
    return state


@functools.lru_cache(maxsize=1)
def _initializer(model_config: Any, num_outputs: int, frames: int, bins: int) -> Callable[[jax.Array], Any]:
    """Key to the variables of a network, compiled once for all runs of a sweep."""
    model = make_model(model_config, num_outputs=num_outputs, dtype=jnp.float32)
    stft = jnp.zeros((1, frames, bins), jnp.complex64)
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
    return make_model(config.model, num_outputs=objective.num_outputs, dtype=dtype, axis_name=axis_name)


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
        if objective.teacher is not None:
            state, taught = _teach(config, objective, objective.teacher, state, decoded.unlabeled, axis_name)
            decoded = decoded._replace(taught=taught)
        dropout_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            batch_stats = state.batch_stats

            def network(stft: jax.Array, index: jax.Array) -> jax.Array:
                nonlocal batch_stats
                logits, updates = model.apply(
                    {"params": params, "batch_stats": batch_stats},
                    stft,
                    index,
                    train=True,
                    rngs={"dropout": dropout_key},
                    mutable=["batch_stats"],
                )
                batch_stats = updates.get("batch_stats", {})
                return logits

            result = objective.loss(network, decoded, loss_key, state.hyperparameters, axis_name)
            return result.loss, (batch_stats, {"loss": result.risk, **result.metrics})

        gradients, (batch_stats, statistics) = jax.grad(loss_fn, has_aux=True)(state.params)
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
        statistics["unlabeled_energy"] = _mean_energy(decoded.unlabeled, axis_name)
        statistics["positive_energy"] = _mean_energy(positives(decoded, state.hyperparameters), axis_name)
        next_state = dataclasses.replace(
            state, step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema_params=ema_params
        )
        return next_state, statistics

    return step


def _teach(
    config: Config, objective: Objective, teacher: Teacher, state: TrainState, unlabeled: jax.Array, axis_name: str | None
) -> tuple[TrainState, Taught]:
    """The state with the teacher of this step, and what it makes of the mixtures, complex64 (n, frames, bins)."""
    steps_taught = state.step - teacher.first_step
    has_teacher = steps_taught >= 0
    new_round = has_teacher & (steps_taught % teacher.round_steps == 0)
    variables = jax.tree.map(lambda new, old: jnp.where(new_round, new, old), separation_variables(config, state), state.teacher)

    def estimate() -> jax.Array:
        model = _network(config, objective, None)
        logits = model.apply(variables, unlabeled, jnp.zeros(unlabeled.shape[0], jnp.int32), train=False)
        return teacher.mask(logits, unlabeled, state.hyperparameters, axis_name).astype(unlabeled.dtype) * unlabeled

    taught = jax.lax.cond(has_teacher, estimate, lambda: unlabeled)
    rest = _half_a_batch_on(unlabeled - taught, axis_name)
    return dataclasses.replace(state, teacher=variables), Taught(taught, has_teacher.astype(jnp.float32), rest)


def _mean_energy(stft: jax.Array, axis_name: str | None) -> jax.Array:
    return mean(jnp.square(jnp.abs(stft)), axis_name)


def _half_a_batch_on(x: jax.Array, axis_name: str | None) -> jax.Array:
    """For each example of the batch, (n, ...) on each device, the one that is half of the batch further on, around its end."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * x.shape[0]
    everywhere = x if axis_name is None else jax.lax.all_gather(x, axis_name, tiled=True)
    total = everywhere.shape[0]
    return everywhere[(first + total // 2 + jnp.arange(x.shape[0])) % total]


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
        mask = objective.mask(network(decoded.unlabeled, 2 * decoded.example_index), state.hyperparameters)
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


def train(config: Config, data_dir: str | Path, run_dir: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Trains, or goes on where a run of the same config in `run_dir` stopped.

    Writes `run_dir/config.json`, `run_dir/metrics.jsonl` (one JSON object a line) and `run_dir/checkpoints`; and
    `run_dir/prior.json` where the config asks for an estimate of the class prior.

    Args:
        config: of the run.
        data_dir: what `jaxpu prepare` wrote with the same `config.data`.
        run_dir: made if it does not exist.
        progress: show a bar.

    Returns:
        The last evaluation's results, with `step`, `best_score` and `stopped` (why training ended).

    Raises:
        DataError: when the data were prepared with other settings, or have no stems where the config needs them.
        TrainingError: when a loss is not finite.
        ConfigError: when `run_dir` belongs to another config, the devices cannot share the batch equally, or checkpoints are to
            be selected by scores that the data cannot give.
    """
    parallel.check_batch_size(config.train.batch_size)
    dataset = open_data(config, data_dir)
    with open_run(config, dataset, run_dir, progress=progress) as run, StopSignal() as stop_signal:
        return run.train(stop_signal, progress=progress and parallel.process_index() == 0)


def open_data(config: Config, data_dir: str | Path) -> PatchDataset:
    """The data, checked to be what `config` needs; raises as `train` does."""
    dataset = PatchDataset.open(data_dir)
    dataset.check(config.data)
    if config.train.select_by == "si_sdr_improvement" and not dataset.has_stems:
        raise ConfigError(
            f"TrainConfig.select_by is 'si_sdr_improvement', but the data in {data_dir} have no stems to score with. "
            "Use held_out_loss or last."
        )
    return dataset


@contextlib.contextmanager
def open_run(config: Config, dataset: PatchDataset, run_dir: str | Path, *, progress: bool) -> Iterator["Run"]:
    """The run in `run_dir`, made if it does not exist; raises `ConfigError` when the folder belongs to another config."""
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    _check_config(config, run_dir / "config.json")
    config, prior = with_estimate(config, dataset, run_dir, progress=progress)
    with RunCheckpoints(run_dir) as checkpoints, RunLog(run_dir) as log:
        yield Run(config, dataset, checkpoints, log, prior)


class Run:
    """One run: its data and folder, and what is kept of it on the host.  `train` has one of them, `jaxpu.sweep` many.

    Attributes:
        train_key: of the training steps, which fold themselves in.
        results: of the last evaluation.
        stopped: why the run is over before its last step; None where it is not.
    """

    def __init__(
        self, config: Config, dataset: PatchDataset, checkpoints: RunCheckpoints, log: RunLog, prior: dict[str, Any] | None
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.checkpoints = checkpoints
        self.log = log
        self.watchdog = Watchdog(getattr(config.objective, "class_prior", None), grace_steps=config.train.num_steps // 10)
        self.prior = prior
        key = jax.random.key(config.train.seed)
        self.train_key, self.evaluate_key = (jax.random.fold_in(key, stream) for stream in (_TRAIN, _EVALUATE))
        self.results: dict[str, Any] = {}
        self.best_score, self.evaluations_since_best = -math.inf, 0
        self.stopped: str | None = None

    def start(self) -> TrainState:
        """The state to go on from, before the first step or at the last checkpoint."""
        # Resuming: 1. the state before the first step, for its shapes; 2. the last checkpoint, if there is one; 3. the lines of
        # the log after it are dropped; 4. the batches start at its step.  Keys are folded from (seed, step), so nothing else.
        state = init_state(self.config)
        if self.checkpoints.latest_step is not None:
            state, info = self.checkpoints.restore(state)
            self.best_score, self.evaluations_since_best = info["best_score"], info["evaluations_since_best"]
            self.results, self.stopped = info["results"], info.get("stopped")
        self.log.start(int(state.step))
        return state

    def train(self, stop_signal: StopSignal, *, progress: bool) -> dict[str, Any]:
        """Trains on all devices; returns what the function `train` does."""
        settings = self.config.train
        step_function = parallel.over_devices(make_train_step(self.config), donate_state=True)
        evaluate_step = parallel.over_devices(make_evaluate_step(self.config))
        state = self.start()
        first_step = int(state.step)
        pending: list[dict[str, jax.Array]] = []
        bar = tqdm(total=settings.num_steps, initial=first_step, desc="train", unit="step", disable=not progress)
        since, examples = time.perf_counter(), 0
        # A run that was stopped is as finished as one that did all its steps.
        batches = self.train_batches(first_step) if self.stopped is None else ()
        for step, batch in enumerate(batches, first_step + 1):
            state, statistics = step_function(state, batch, self.train_key)
            pending.append(statistics)
            examples += settings.batch_size
            bar.update()
            evaluate_now = step % settings.eval_every == 0 or step == settings.num_steps or stop_signal.received
            if len(pending) < LOG_EVERY and not evaluate_now:
                continue
            values = [{name: float(value) for name, value in item.items()} for item in jax.device_get(pending)]
            pending = []
            self.note_steps(step, values, clips_per_s=examples / (time.perf_counter() - since))
            since, examples = time.perf_counter(), 0
            if not evaluate_now and self.stopped is None:
                continue
            evaluated = jax.device_get([evaluate_step(state, batch, key) for batch, key in self.validation_batches()])
            results = {name: float(np.mean([item[name] for item in evaluated])) for name in evaluated[0]}
            self.note_evaluation(step, state, results)
            bar.set_postfix({name: f"{value:.3g}" for name, value in results.items() if name in ("loss", "si_sdr_improvement")})
            since = time.perf_counter()
            if self.stopped is not None or stop_signal.received:
                break
        bar.close()
        step = int(state.step)
        asked = stop_signal.received and step < settings.num_steps
        stopped = self.stopped or (ASKED_TO_STOP if asked else ALL_STEPS_DONE)
        return {**self.results, "step": step, "best_score": self.best_score, "stopped": stopped}

    def note_steps(self, step: int, values: list[dict[str, float]], *, clips_per_s: float) -> None:
        """Logs the mean statistics of the steps up to `step`; the watchdog may set `stopped`.

        Raises:
            TrainingError: when a loss is not finite.
        """
        warnings = self._check(step - len(values), values)
        means = {name: float(np.mean([item[name] for item in values])) for name in values[0]}
        self.log.write("train", step, **means, clips_per_s=clips_per_s)
        for warning in warnings:
            tqdm.write(warning, file=sys.stderr)
            self.log.write("warning", step, text=warning)
        if warnings and self.config.train.on_blank == "stop":
            self.stopped = "blank output"

    def note_evaluation(self, step: int, state: TrainState, results: dict[str, float]) -> None:
        """Logs an evaluation and saves a checkpoint; lost patience sets `stopped`."""
        settings = self.config.train
        score = selection_score(settings.select_by, results, step)
        self.evaluations_since_best = 0 if score > self.best_score else self.evaluations_since_best + 1
        self.best_score = max(score, self.best_score)
        self.results = results
        if self.stopped is None and settings.patience and self.evaluations_since_best >= settings.patience:
            self.stopped = f"no better checkpoint in {settings.patience} evaluations"
        self.log.write("evaluate", step, **results)
        info = {
            "step": step,
            "select_by": settings.select_by,
            "score": score,
            "uses_stems": uses_stems(self.config),
            "data_fingerprint": self.dataset.fingerprint,
            "best_score": self.best_score,
            "evaluations_since_best": self.evaluations_since_best,
            "results": results,
            "stopped": self.stopped,
            "prior": self.prior,
        }
        self.checkpoints.save(
            step,
            state=state,
            variables=separation_variables(self.config, state),
            score=score,
            config=self.config,
            info=info,
        )

    def train_batches(self, first_step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches of the steps after `first_step`; they depend on the seed alone."""
        objective = make_objective(self.config.objective)
        return self._batches(
            "train",
            with_target=objective.needs_target,
            num_target_tracks=objective.target_tracks,
            start_step=first_step,
            num_steps=self.config.train.num_steps - first_step,
        )

    def validation_batches(self) -> Iterator[tuple[dict[str, np.ndarray], jax.Array]]:
        """Batches of the validation tracks, drawn from all of them, with keys; the same at every evaluation."""
        one_pass = max(self.dataset.num_clips("validation", "mixture") // self.config.train.batch_size, 1)
        num_batches = min(self.config.train.eval_batches, one_pass)
        batches = self._batches("validation", with_target=self.dataset.has_stems, num_steps=num_batches)
        for number, batch in enumerate(batches):
            yield batch, jax.random.fold_in(self.evaluate_key, number)

    def _batches(
        self,
        split: Literal["train", "validation"],
        *,
        with_target: bool,
        num_target_tracks: int | None = None,
        start_step: int = 0,
        num_steps: int | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        settings = self.config.train
        local = settings.batch_size // parallel.process_count()
        index = np.arange(local, dtype=np.int32) + parallel.process_index() * local
        for batch in self.dataset.batches(
            split,
            batch_size=settings.batch_size,
            seed=settings.seed,
            start_step=start_step,
            num_steps=num_steps,
            disjoint_tracks=settings.disjoint_tracks,
            with_target=with_target,
            num_target_tracks=num_target_tracks,
            process_index=parallel.process_index(),
            process_count=parallel.process_count(),
        ):
            yield {name: batch[name] for name in ("unlabeled", "positive", "target") if name in batch} | {"index": index}

    def _check(self, step_before: int, values: list[dict[str, float]]) -> list[str]:
        """Stops on a loss that is not finite, and asks the watchdog."""
        warnings = []
        for step, item in enumerate(values, step_before + 1):
            if not math.isfinite(item["loss"]) or not math.isfinite(item["gradient_norm"]):
                raise TrainingError(
                    f"Step {step}: the loss is {item['loss']}, the norm of its gradient {item['gradient_norm']}. "
                    f"Lower train.learning_rate (now {self.config.train.learning_rate:g}) or set train.gradient_clip. "
                    "The last checkpoint is kept."
                )
            warning = self.watchdog.update(step, item)
            if warning:
                warnings.append(warning)
        return warnings


def selection_score(select_by: str, results: dict[str, float], step: int) -> float:
    """What the best checkpoint has most of."""
    return {
        "held_out_loss": lambda: -results["loss"],
        "si_sdr_improvement": lambda: results["si_sdr_improvement"],
        "last": lambda: float(step),
    }[select_by]()


def _check_config(config: Config, path: Path) -> None:
    """Writes the config of a new run; refuses a run directory that belongs to another config."""
    text = json.dumps(to_json(config), indent=2)
    if path.exists():
        if path.read_text() != text:
            raise ConfigError(
                f"{path} is of a run with another config. Use another folder (--run), or delete {path.parent} to start anew."
            )
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    from jaxpu.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
