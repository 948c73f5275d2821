"""Training from end to end on a tiny corpus: learning, resuming to the bit, stopping, refusing."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile

from data_pipeline.config import STEMS, DataConfig, PatchSpec
from data_pipeline.dataset import PatchDataset
from data_pipeline.errors import DataError
from data_pipeline.prepare import prepare
from data_pipeline.tracks import Folders, Musdb18HQ
from jaxpu.artifacts.checkpoints import RunCheckpoints, load_model
from jaxpu.config import (
    BootstrapConfig,
    Config,
    ConfigError,
    PatchCNNConfig,
    PUConfig,
    RemixConfig,
    SupervisedConfig,
    TrainConfig,
)
from jaxpu.config_files import to_json
from jaxpu.core.network import make_network
from jaxpu.core.objectives import make_objective
from jaxpu.core.step import TrainState, decode, init_state, make_optimizer, make_train_step, separation_variables
from jaxpu.training.loop import ALL_STEPS_DONE, ASKED_TO_STOP, LOG_EVERY, train
from jaxpu.training.run import TrainingError, open_run

RATE = 8000
DATA = DataConfig(
    patch=PatchSpec(sample_rate=RATE, clip_samples=512, n_fft=64, win_length=64, hop_length=32),
    activity_on="off",
    validation_share=0.3,
)
SETTINGS = TrainConfig(num_steps=60, batch_size=8, learning_rate=0.03, eval_every=30, eval_batches=2)
REMIX = Config(
    data=DATA,
    model=PatchCNNConfig(channels=4, blocks=0, features="log", dropout_rate=0.1),
    objective=RemixConfig(),
    train=SETTINGS,
)


def change(config: Config, *, objective: Any = None, model: dict[str, Any] | None = None, **settings: Any) -> Config:
    return dataclasses.replace(
        config,
        objective=objective or config.objective,
        model=dataclasses.replace(config.model, **(model or {})),
        train=dataclasses.replace(config.train, **settings),
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six songs of two seconds: vocals are tones that come and go, the rest is noise."""
    root = tmp_path_factory.mktemp("corpus")
    time_s = np.arange(2 * RATE) / RATE
    for song in range(6):
        rng = np.random.default_rng(song)
        folder = root / "train" / f"Song {song}"
        folder.mkdir(parents=True)
        playing = np.sin(2 * np.pi * (1 + song / 4) * time_s) > -0.3
        stems = {name: 0.03 * rng.standard_normal(len(time_s)) for name in STEMS[1:]}
        stems["vocals"] = 0.2 * playing * sum(np.sin(2 * np.pi * harmonic * (500 + 50 * song) * time_s) for harmonic in (1, 2, 3))
        stems["mixture"] = sum(stems.values())
        for name, samples in stems.items():
            soundfile.write(folder / f"{name}.wav", samples, RATE)
    return root


@pytest.fixture(scope="module")
def data_dir(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "stems"
    prepare(Musdb18HQ(corpus), DATA, directory, num_workers=1, progress=False)
    return directory


@pytest.fixture(scope="module")
def two_folders(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings without stems, none of which contains the target."""
    root = tmp_path_factory.mktemp("folders")
    for folder, stem, songs in (("with", "other", range(3)), ("without", "drums", range(3, 6))):
        (root / folder).mkdir()
        for song in songs:
            (root / folder / f"{song}.wav").symlink_to(corpus / "train" / f"Song {song}" / f"{stem}.wav")
    prepare(Folders(root / "with", root / "without"), DATA, root / "data", num_workers=1, progress=False)
    return root / "data"


@pytest.fixture(scope="module")
def straight(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run without interruptions, and what it returned."""
    run_dir = tmp_path_factory.mktemp("straight")
    return run_dir, train(REMIX, data_dir, run_dir, progress=False)


def read_log(run_dir: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl, without timings."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert all(line["clips_per_s"] > 0 and 0 <= line["data_wait"] <= 1 for line in lines if line["kind"] == "train")
    return [
        {name: value for name, value in line.items() if name not in ("clips_per_s", "data_wait")}
        for line in lines
        if kind in (None, line["kind"])
    ]


def last_state(config: Config, run_dir: Path) -> TrainState:
    with RunCheckpoints(run_dir) as checkpoints:
        state, _ = checkpoints.restore(init_state(config))
    return state


def assert_same(actual: Any, expected: Any) -> None:
    """Equal to the bit."""
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(actual), jax.device_get(expected))


@contextlib.contextmanager
def when(condition: Callable[[], bool], action: Callable[[], None]) -> Iterator[threading.Event]:
    """Does `action` in another thread as soon as `condition` holds; yields whether it was done."""
    done, finished = threading.Event(), threading.Event()

    def watch() -> None:
        while not finished.is_set():
            if condition():
                done.set()
                action()
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield done
    finally:
        finished.set()
        thread.join()


def logged(run_dir: Path, step: int) -> Callable[[], bool]:
    """Whether the log has reached that step."""
    path = run_dir / "metrics.jsonl"
    return lambda: path.exists() and any(f'"step": {number},' in path.read_text() for number in range(step, 61))


@pytest.mark.slow
def test_a_second_run_in_the_same_process_is_not_compiled_again(
    straight: tuple[Path, dict[str, Any]], data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor one that is resumed.  The seed makes no difference to the program, other settings may."""
    seed = REMIX.train.seed + 1
    for config, compiled in (
        (dataclasses.replace(REMIX, train=dataclasses.replace(REMIX.train, seed=seed)), False),
        (dataclasses.replace(REMIX, train=dataclasses.replace(REMIX.train, seed=seed, gradient_clip=0.5)), True),
    ):
        caplog.clear()
        with jax.log_compiles(True):
            train(config, data_dir, tmp_path / str(compiled), progress=False)
        # Nothing but the steps takes clips, whose numbers are float16.
        said = [record.getMessage() for record in caplog.records]
        programs = [text for text in said if text.startswith("Compiling") and "float16" in text]
        assert len(programs) == (2 if compiled else 0), "the training step and the evaluation, each once"


@pytest.mark.slow
def test_a_run_learns_and_writes_what_it_promises(straight: tuple[Path, dict[str, Any]], data_dir: Path) -> None:
    run_dir, result = straight
    assert result["stopped"] == "all steps done"
    assert result["step"] == 60
    assert json.loads((run_dir / "config.json").read_text()) == json.loads(json.dumps(to_json(REMIX)))
    steps = [line["step"] for line in read_log(run_dir, "train")]
    assert steps == [20, 30, 50, 60]
    assert [line["step"] for line in read_log(run_dir, "evaluate")] == [30, 60]
    losses = [line["loss"] for line in read_log(run_dir, "train")]
    assert losses[-1] < losses[0] - 0.02
    for line in read_log(run_dir, "train"):
        assert {"loss", "kept_energy", "inactive_share", "label_share", "gradient_norm"} <= set(line)
    evaluated = read_log(run_dir, "evaluate")[-1]
    assert {"loss", "kept_energy", "inactive_share", "si_sdr_improvement", "true_kept_energy"} <= set(evaluated)
    assert result["loss"] == evaluated["loss"]
    assert 0.05 < evaluated["true_kept_energy"] < 0.95
    best = max(-line["loss"] for line in read_log(run_dir, "evaluate"))
    assert result["best_score"] == best
    model = load_model(run_dir)
    assert model.config == REMIX
    assert model.info["score"] == best
    assert model.info["select_by"] == "held_out_loss"
    assert model.info["uses_stems"] == []
    assert model.info["data_fingerprint"] == PatchDataset.open(data_dir).fingerprint


def test_a_finished_run_is_left_as_it_is(straight: tuple[Path, dict[str, Any]], data_dir: Path) -> None:
    run_dir, result = straight
    log = (run_dir / "metrics.jsonl").read_text()
    assert train(REMIX, data_dir, run_dir, progress=False) == result
    assert (run_dir / "metrics.jsonl").read_text() == log


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_resumes(
    straight: tuple[Path, dict[str, Any]], data_dir: Path, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with when(logged(tmp_path, 20), lambda: os.kill(os.getpid(), signal.SIGTERM)) as sent:
        result = train(REMIX, data_dir, tmp_path, progress=False)
    assert sent.is_set()
    assert signal.getsignal(signal.SIGTERM) is before
    assert result["stopped"] == ASKED_TO_STOP
    assert 20 < result["step"] < 60
    assert [line["step"] for line in read_log(tmp_path, "evaluate")][-1] == result["step"]
    assert load_model(tmp_path, which="last").info["step"] == result["step"]
    assert train(REMIX, data_dir, tmp_path, progress=False)["stopped"] == "all steps done"
    # Neither the seed's parameters, nor the data, nor the dropout, nor the gains differ from the straight run's.
    assert_same(last_state(REMIX, tmp_path), last_state(REMIX, straight[0]))
    assert [line for line in read_log(tmp_path, "evaluate") if line["step"] % 30 == 0] == read_log(straight[0], "evaluate")


def test_a_run_that_is_stopped_before_its_first_evaluation_has_no_best_score(data_dir: Path, tmp_path: Path) -> None:
    config = change(REMIX, eval_every=60)
    with when(logged(tmp_path, 20), lambda: os.kill(os.getpid(), signal.SIGTERM)):
        result = train(config, data_dir, tmp_path, progress=False)
    assert result["stopped"] == ASKED_TO_STOP
    assert result["best_score"] is None
    result = train(config, data_dir, tmp_path, progress=False)
    assert result["best_score"] == -result["loss"]


TRAIN = """
    import json, sys
    from jaxpu.config_files import from_json
    from jaxpu.training.loop import train

    train(from_json(json.loads(sys.argv[1])), sys.argv[2], sys.argv[3], progress=False)
"""


@pytest.mark.slow
def test_kill_and_resume_equals_a_straight_run(straight: tuple[Path, dict[str, Any]], data_dir: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TRAIN), json.dumps(to_json(REMIX)), data_dir, tmp_path],
        env=os.environ,
        cwd=Path(__file__).parents[2],
    )
    reached = logged(tmp_path, 50)
    while process.poll() is None and not reached():
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    # The process may have been writing: half a line, and lines beyond the last checkpoint.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 60, "loss": 0.1}\n{"kind": "train", "st')
    assert train(REMIX, data_dir, tmp_path, progress=False)["stopped"] == "all steps done"
    assert_same(last_state(REMIX, tmp_path), last_state(REMIX, straight[0]))
    assert read_log(tmp_path) == read_log(straight[0])
    assert_same(load_model(tmp_path).variables, load_model(straight[0]).variables)


@pytest.mark.slow
def test_supervised_with_everything_switched_on(data_dir: Path, tmp_path: Path) -> None:
    config = change(
        REMIX,
        objective=SupervisedConfig(),
        model={"normalization": "batch", "output_kernel_size": 3},
        num_steps=40,
        mixed_precision=True,
        ema_decay=0.9,
        gradient_clip=1.0,
        schedule="cosine",
        warmup_steps=5,
        select_by="si_sdr_improvement",
        disjoint_tracks=False,
    )
    result = train(config, data_dir, tmp_path, progress=False)
    losses = [line["loss"] for line in read_log(tmp_path, "train")]
    assert losses[-1] < losses[0]
    assert result["best_score"] == max(line["si_sdr_improvement"] for line in read_log(tmp_path, "evaluate"))
    state = last_state(config, tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.batch_stats, state.ema_params))} == {
        jnp.dtype(jnp.float32)
    }
    model = load_model(tmp_path, which="last")
    assert model.info["uses_stems"] == ["supervised training", "checkpoint selected by SI-SDR"]
    # What separates is the average, with the running statistics of the normalization.
    assert_same(model.variables, {"params": state.ema_params, "batch_stats": state.batch_stats})
    averaged, current = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (state.ema_params, state.params)
    )
    assert np.any(averaged != current)
    np.testing.assert_allclose(averaged, current, atol=0.2)


@pytest.mark.slow
def test_blank_output_stops_the_run_when_asked_to(two_folders: Path, tmp_path: Path) -> None:
    # Both folders sound alike, so that blank output is the best answer wherever the class prior is above 1/2.
    objective = PUConfig(estimator="unbiased", class_prior=0.95)
    config = change(REMIX, objective=objective, num_steps=400, eval_every=200, on_blank="stop")
    result = train(config, two_folders, tmp_path, progress=False)
    assert result["stopped"] == "blank output"
    assert 100 <= result["step"] < 400
    (warning,) = read_log(tmp_path, "warning")
    # So it does after an interruption, but for the rhythm in which statistics are read.
    resumed = tmp_path / "resumed"
    with when(logged(resumed, 20), lambda: os.kill(os.getpid(), signal.SIGTERM)):
        assert train(config, two_folders, resumed, progress=False)["step"] < result["step"]
    assert abs(train(config, two_folders, resumed, progress=False)["step"] - result["step"]) < LOG_EVERY
    assert warning["step"] == result["step"]
    assert "the output is blank" in warning["text"]
    assert "class prior of 0.95" in warning["text"]
    losses = [line["loss"] for line in read_log(tmp_path, "train")]
    assert losses[-1] < losses[0]
    # Stopped with a checkpoint, so that it can be looked at.
    assert load_model(tmp_path, which="last").info["step"] == result["step"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(data_dir: Path, tmp_path: Path) -> None:
    config = change(REMIX, learning_rate=1e30)
    with pytest.raises(TrainingError) as caught:
        train(config, data_dir, tmp_path, progress=False)
    message = str(caught.value)
    assert re.match(r"^Step [23]: the loss is (nan|inf), the norm of its gradient ", message)
    assert "train.learning_rate (now 1e+30)" in message
    assert "train.gradient_clip" in message
    assert message.endswith("There is no checkpoint yet.")
    # Nothing was done that the remedy would contradict.
    result = train(change(REMIX, learning_rate=1e-3, num_steps=3), data_dir, tmp_path, progress=False)
    assert result["stopped"] == ALL_STEPS_DONE


@pytest.mark.parametrize("results", [{"loss": math.nan, "estimated_error": -0.2}, {"loss": 0.1, "estimated_error": math.nan}])
def test_an_evaluation_that_is_not_finite_saves_nothing(data_dir: Path, tmp_path: Path, results: dict[str, float]) -> None:
    config = change(REMIX, select_by="estimated_error")
    with open_run(config, PatchDataset.open(data_dir), tmp_path, progress=False) as run:
        state, _ = run.start()
        run.note_evaluation(5, state, {"loss": 0.1, "estimated_error": -0.1}, None, scheduled=True)
        with pytest.raises(TrainingError, match=r"^Evaluation after step 10: .*nan.*\. The checkpoint of step 5 is kept"):
            run.note_evaluation(10, state, results, None, scheduled=True)
    assert load_model(tmp_path).info["step"] == load_model(tmp_path, which="last").info["step"] == 5


def test_patience_ends_a_run_that_does_not_get_better(data_dir: Path, tmp_path: Path) -> None:
    config = change(REMIX, learning_rate=1e-30, eval_every=5, patience=2)
    result = train(config, data_dir, tmp_path, progress=False)
    # The first evaluation is the best; the same loss again is no better.
    assert result["step"] == 15
    assert result["stopped"] == "no better checkpoint in 2 evaluations"
    assert load_model(tmp_path).info["evaluations_since_best"] == 2


def test_data_of_other_settings_are_refused_before_the_first_step(data_dir: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(REMIX, data=dataclasses.replace(DATA, patch=dataclasses.replace(DATA.patch, hop_length=16)))
    with pytest.raises(DataError, match=r"prepared with other settings: .*hop_length is 32 but 16 is asked for"):
        train(other, data_dir, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_run_directory_of_another_config_is_refused(straight: tuple[Path, dict[str, Any]], data_dir: Path) -> None:
    run_dir, _ = straight
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(run_dir / 'config.json'))} .*train\.seed is 0 there and 1 here"):
        train(change(REMIX, seed=1), data_dir, run_dir, progress=False)


def test_a_batch_that_the_devices_cannot_share_is_refused(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size is 12; it must be a multiple of the 8 devices"):
        train(change(REMIX, batch_size=12), data_dir, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_two_folders_train_without_stems_and_refuse_what_needs_them(two_folders: Path, tmp_path: Path) -> None:
    result = train(change(REMIX, num_steps=2), two_folders, tmp_path / "remix", progress=False)
    assert "si_sdr_improvement" not in result
    assert math.isfinite(result["loss"])
    with pytest.raises(DataError, match="has no targets, for its source has no stems"):
        train(change(REMIX, objective=SupervisedConfig()), two_folders, tmp_path / "supervised", progress=False)


def test_the_seed_decides_the_initial_parameters() -> None:
    first, again, other = (init_state(change(REMIX, seed=seed)).params for seed in (3, 3, 4))
    assert_same(first, again)
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True))


def random_batches(num: int, *, positive_gain: float = 1.0) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        {
            "unlabeled": rng.standard_normal((8, *DATA.patch.patch_shape)).astype(np.float32),
            "positive": np.float32(positive_gain) * rng.standard_normal((8, *DATA.patch.patch_shape)).astype(np.float32),
            "index": np.arange(8, dtype=np.int32),
        }
        for _ in range(num)
    ]


BOOTSTRAP = BootstrapConfig(remix_steps=3, labels="binary")


@pytest.mark.slow
def test_a_bootstrap_is_remix_until_it_has_a_teacher() -> None:
    config, key = change(REMIX, objective=BOOTSTRAP, ema_decay=0.9), jax.random.key(0)
    step, remix_step = jax.jit(make_train_step(config)), jax.jit(make_train_step(change(REMIX, ema_decay=0.9)))
    state, remix_state = init_state(config), init_state(change(REMIX, ema_decay=0.9))
    same_as_remix = []
    for batch in random_batches(6):
        state, _ = step(state, batch, key)
        remix_state, _ = remix_step(remix_state, batch, key)
        difference = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), state.params, remix_state.params)
        same_as_remix.append(max(jax.tree.leaves(difference)) < 1e-6)
    assert same_as_remix == [True] * 3 + [False] * 3
    assert remix_state.objective_state == {}


def test_the_teacher_is_what_separates_at_every_step() -> None:
    """`prepare` gets the network as it separates before the step: its pseudo-targets are the masks of that."""
    objective = make_objective(dataclasses.replace(BOOTSTRAP, remix_steps=0, empty_share=0.0))
    batch = decode(random_batches(1)[0])
    values = {name: jnp.float32(value) for name, value in objective.hyperparameters.items()}
    logits = jnp.where(jnp.arange(batch.unlabeled.shape[-1]) < 10, 20.0, -20.0)[None, None, :, None]

    def separate(stft: jax.Array, index: jax.Array) -> jax.Array:
        return jnp.broadcast_to(logits, (len(stft), *stft.shape[2:], 1))

    state, prepared, metrics = objective.prepare(objective.init_state(), batch, separate, values, jax.random.key(0), None)
    assert prepared.pseudo_target is not None
    estimate = np.abs(np.asarray(prepared.pseudo_target.estimate))
    assert float(prepared.pseudo_target.exists) == 1
    assert estimate[..., :10].max() < 1e-3
    assert (estimate[..., 10:] > 0).mean() > 0.9
    assert int(state.steps) == 1
    assert float(metrics["empty_mixtures"]) == 0


def test_mixtures_are_empty_only_to_a_teacher_that_keeps_little_of_the_positives() -> None:
    key, batches = jax.random.key(0), random_batches(1) * 6

    def run(max_false_positive_ratio: float) -> list[tuple[float, float]]:
        objective = dataclasses.replace(BOOTSTRAP, empty_share=1.0, max_false_positive_ratio=max_false_positive_ratio)
        config = change(REMIX, objective=objective, ema_decay=0.9)
        step, state, found = jax.jit(make_train_step(config)), init_state(config), []
        for batch in batches:
            state, statistics = step(state, batch, key)
            assert statistics["false_positive_ratio"] == state.objective_state.false_positive_ratio
            found.append((float(statistics["false_positive_ratio"]), float(statistics["empty_mixtures"])))
        return found

    trusting = run(100.0)
    assert trusting[:3] == [(0, 0)] * 3
    assert all(empty > 0 for _, empty in trusting[3:])
    first = trusting[3][0]
    assert first > 0
    assert run(1.01 * first)[3] == trusting[3]
    assert run(0.99 * first)[3] == (first, 0)


def test_the_false_positive_ratio_is_a_mean_over_the_steps_with_a_teacher() -> None:
    objective = make_objective(dataclasses.replace(BOOTSTRAP, remix_steps=0))
    batch = decode(random_batches(1)[0])
    values = {name: jnp.float32(value) for name, value in objective.hyperparameters.items()}

    def prepare(state: Any, seed: int) -> tuple[Any, float]:
        logits = jnp.asarray(np.random.default_rng(seed).standard_normal((16, *batch.unlabeled.shape[2:], 1)), jnp.float32)
        state, _, metrics = objective.prepare(state, batch, lambda stft, index: logits, values, jax.random.key(0), None)
        return state, float(metrics["false_positive_ratio"])

    alone = [prepare(objective.init_state(), seed)[1] for seed in (0, 1)]
    assert alone[0] != pytest.approx(alone[1], rel=1e-3)
    state, first = prepare(objective.init_state(), 0)
    _, both = prepare(state, 1)
    assert first == alone[0]
    np.testing.assert_allclose(both, np.mean(alone), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("init_from", ["", "model.zip"])
def test_batch_statistics_are_of_what_separates_over_mixtures_as_they_are(init_from: str) -> None:
    config = change(REMIX, model={"normalization": "batch"}, ema_decay=0.9, init_from=init_from)
    network = make_network(config, 1)
    step, state = jax.jit(make_train_step(config)), init_state(config)
    expected = state.batch_stats
    for number, batch in enumerate(random_batches(6)):
        state, _ = step(state, batch, jax.random.key(0))
        if number % 4 == 0:
            variables, stft = separation_variables(config, state), decode(batch).unlabeled
            new = network.apply(variables, stft, train=True, mutable=["batch_stats"])[1]["batch_stats"]
            # Statistics of a first model keep four fifths of their weight, others none.
            share = 0.2 if init_from else 1 / (1 + number // 4)
            expected = optax.incremental_update(new, expected, share)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), state.batch_stats, expected)


@pytest.mark.slow
def test_a_bootstrap_that_was_stopped_resumes_to_the_bit(data_dir: Path, tmp_path: Path) -> None:
    config = change(REMIX, objective=dataclasses.replace(BOOTSTRAP, remix_steps=10), eval_every=15, ema_decay=0.9)
    straight_result = train(config, data_dir, tmp_path / "straight", progress=False)
    with when(logged(tmp_path / "resumed", 20), lambda: os.kill(os.getpid(), signal.SIGTERM)) as sent:
        assert train(config, data_dir, tmp_path / "resumed", progress=False)["stopped"] == ASKED_TO_STOP
    assert sent.is_set()
    assert train(config, data_dir, tmp_path / "resumed", progress=False)["loss"] == straight_result["loss"]
    state = last_state(config, tmp_path / "resumed")
    assert_same(state, last_state(config, tmp_path / "straight"))
    assert int(state.objective_state.steps) == 60


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.1] * 6),
        ({"warmup_steps": 2}, [0.0, 0.05, 0.1, 0.1, 0.1, 0.1]),
        ({"schedule": "cosine"}, [0.1 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]),
        (
            {"schedule": "cosine", "warmup_steps": 2},
            [0, 0.05, *(0.1 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4))],
        ),
    ],
    ids=str,
)
def test_schedules(settings: dict[str, Any], expected: list[float]) -> None:
    """Under a constant gradient every step of Adam is the learning rate."""
    optimizer = make_optimizer(TrainConfig(num_steps=6, gradient_clip=1.0, **settings), 0.1)

    def step(state: Any, _: None) -> tuple[Any, jax.Array]:
        updates, state = optimizer.update(jnp.full((), 50.0), state, jnp.zeros(()))
        return state, updates

    _, updates = jax.lax.scan(step, optimizer.init(jnp.zeros(())), None, 6)
    np.testing.assert_allclose(-updates, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_many_hyperparameters_at_once_equal_runs_alone() -> None:
    config = change(REMIX, objective=PUConfig())
    step = jax.jit(make_train_step(config))
    state = init_state(config)
    key = jax.random.key(0)
    # At the highest prior the bracket is negative: both sides of the clamp in one vmap.
    values = {"class_prior": jnp.asarray([0.1, 0.2, 0.99]), "gamma": jnp.asarray([1.0, 0.5, 0.3])}
    batches = random_batches(3, positive_gain=2.0)

    def run(step: Any, state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        for batch in batches:
            state, statistics = step(state, batch, key)
        return state, statistics

    def stack(states: list[Any]) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    states = [
        dataclasses.replace(state, hyperparameters=state.hyperparameters | {name: value[i] for name, value in values.items()})
        for i in range(3)
    ]
    together = run(jax.jit(jax.vmap(step, (0, None, None))), stack(states))
    alone = stack([run(step, each) for each in states])
    assert together[1]["clamped"].tolist() == [0, 0, 1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), together, alone)


TOO_LARGE = """
import json, resource, sys
from pathlib import Path
from jaxpu.config_files import from_json
from jaxpu.training.loop import train
from jaxpu.training.run import TrainingError, open_run
resource.setrlimit(resource.RLIMIT_AS, (7 << 30, 7 << 30))
try:
    train(from_json(json.loads(Path(sys.argv[1]).read_text())), sys.argv[2], sys.argv[3], progress=False)
except TrainingError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits its own memory")
def test_too_little_memory_is_told_with_the_clips_that_may_fit(data_dir: Path, tmp_path: Path) -> None:
    """Seven gigabytes, for activations of ten: in a process of its own, whose memory the system limits."""
    config = change(REMIX, model={"channels": 512}, batch_size=4095)  # The largest divisor up to a half is 1365.
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    arguments = [str(tmp_path / "config.json"), str(data_dir), str(tmp_path / "run")]
    environment = os.environ | {"XLA_FLAGS": ""}
    process = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, *arguments], capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert process.stdout == (
        "The device has too little memory for a training step of 4095 clips at once. "
        "Add --train.clips-at-once 1365: the batch stays as it is.\n"
    ), process.stderr
