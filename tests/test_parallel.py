"""Eight simulated devices equal one; the training step lowers for CPU, GPU and TPU, each in its own form."""

import contextlib
import dataclasses
import functools
import typing
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

import jaxpu.core.step
from data_pipeline.config import DataConfig, PatchSpec
from jaxpu import load_config, onednn, parallel
from jaxpu.config import (
    BandSplitRNNConfig,
    BootstrapConfig,
    BrierPUConfig,
    Config,
    MixITConfig,
    NoisyTargetConfig,
    ObjectiveConfig,
    PatchCNNConfig,
    PNUConfig,
    PUConfig,
    RemixConfig,
    SupervisedConfig,
    TrainConfig,
    UNetConfig,
)
from jaxpu.config.networks import ModelConfig
from jaxpu.core import losses
from jaxpu.core.objectives import make_objective
from jaxpu.core.step import TrainState, init_state, make_evaluate_step, make_train_step
from jaxpu.training.memory import batch_shapes

PATCH = PatchSpec(clip_samples=320, n_fft=64, win_length=64, hop_length=32, dtype="float32", stereo=True)
DROPOUT = PatchCNNConfig(channels=2, blocks=1, features="log", dropout_rate=0.3)
BATCH_NORM = PatchCNNConfig(channels=2, blocks=1, features="log", normalization="batch")
RNN = BandSplitRNNConfig(bands=((7600.0, 3),), channels=4, repeats=2, hidden=3, mask_hidden=5)
UNET = UNetConfig(channels=(2, 3), convolutions=1, dilations=(1, 2), bottleneck=4, bands_per_octave=6)
KEY = jax.random.key(5)
BATCH_SIZE, NUM_STEPS = 16, 6


def make_config(objective: Any, model: ModelConfig, **settings: Any) -> Config:
    train = TrainConfig(batch_size=BATCH_SIZE, learning_rate=0.01, **settings)
    return Config(data=DataConfig(patch=PATCH), model=model, objective=objective, train=train)


def make_state(config: Config, **hyperparameters: float) -> TrainState:
    """The state at the start with parameters drawn by NumPy, since compiling the initializers takes seconds."""
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if ".params" in name or ".ema_params" in name:
            return jnp.asarray(rng.uniform(-0.5, 0.5, leaf.shape) + ("'scale'" in name), leaf.dtype)
        return jnp.full(leaf.shape, 1 if "'var'" in name else 0, leaf.dtype)

    state = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(lambda: init_state(config)))
    numbers = make_objective(config.objective).hyperparameters | {"learning_rate": config.train.learning_rate} | hyperparameters
    return dataclasses.replace(state, hyperparameters={name: jnp.float32(value) for name, value in numbers.items()})


def make_batch(seed: int, *, with_target: bool = False, positive_gain: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    # Clips of all levels, so that the shares of the devices differ.
    level = 4 ** rng.standard_normal((BATCH_SIZE, 1, 1, 1, 1))
    unlabeled, positive, target = (
        (level * rng.standard_normal((BATCH_SIZE, *PATCH.patch_shape))).astype(np.float32) for _ in range(3)
    )
    batch = {
        "unlabeled": unlabeled,
        "positive": np.float32(positive_gain) * positive,
        "index": np.arange(BATCH_SIZE, dtype=np.int32),
    }
    return batch | ({"target": 0.5 * unlabeled + 0.1 * target} if with_target else {})


def relative_difference(actual: Any, expected: Any, start: Any = None) -> float:
    """Norm of the difference over the norm of what is expected, or of how far it is from `start`."""
    difference = optax.tree.norm(jax.tree.map(np.subtract, jax.device_get(actual), jax.device_get(expected)))
    moved = expected if start is None else jax.tree.map(np.subtract, jax.device_get(expected), jax.device_get(start))
    return float(difference / optax.tree.norm(moved))


@pytest.fixture(scope="module", autouse=True)
def eight_devices() -> None:
    assert jax.device_count() == 8


# Config, and the rate of SGD, small enough that rounding errors do not grow; None: the optimizer that comes with jaxpu.
CASES: dict[str, tuple[Config, float | None]] = {
    "pu-sgd": (make_config(PUConfig(gamma=0.5), DROPOUT), 0.5),
    "pu-clipped-adam": (make_config(PUConfig(gamma=0.5), DROPOUT, gradient_clip=0.02, ema_decay=0.9), None),
    "remix-norm-unet-sgd": (make_config(RemixConfig(), UNET), 0.05),
    "bootstrap-norm-sgd": (
        make_config(
            BootstrapConfig(remix_steps=3, empty_share=0.9, max_false_positive_ratio=10.0, labels="binary"),
            BATCH_NORM,
            ema_decay=0.9,
        ),
        0.05,
    ),
    "supervised-norm-sgd": (make_config(SupervisedConfig(), BATCH_NORM), 0.002),
    "remix-norm-rnn-sgd": (make_config(RemixConfig(), RNN), 0.05),
}


def sgd(rate: float) -> optax.GradientTransformation:
    """Gradient descent whose state is the last gradient."""
    return optax.chain(optax.trace(decay=0.0), optax.scale(-rate))


@functools.cache
def steps(case: str) -> tuple[Any, Any]:
    """The step of a case on one device, and on all eight."""
    config, rate = CASES[case]
    step = make_train_step(config)

    def with_optimizer(*arguments: Any, **options: Any) -> Any:
        # Adam divides by the size of gradients, which magnifies their rounding; so most cases are traced with another optimizer.
        with mock.patch.object(jaxpu.core.step, "make_optimizer", return_value=sgd(rate)) if rate else contextlib.nullcontext():
            return step(*arguments, **options)

    return jax.jit(functools.partial(with_optimizer, axis_name=None)), parallel.over_devices(with_optimizer)


def start(case: str, **hyperparameters: float) -> TrainState:
    config, rate = CASES[case]
    state = make_state(config, **hyperparameters)
    return state if rate is None else dataclasses.replace(state, opt_state=sgd(rate).init(state.params))


# Where positives are 4 times louder and their prior is 0.9, the bracket is far below 0; at 0.2 and equal levels far above.
@pytest.mark.parametrize(
    ("case", "clamped", "hyperparameters", "positive_gain"),
    [
        ("pu-sgd", 0.0, {"class_prior": 0.2}, 1.0),
        ("pu-sgd", 1.0, {"class_prior": 0.9}, 4.0),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("pu-clipped-adam", 0.0, {"class_prior": 0.2}, 1.0),
                ("pu-clipped-adam", 1.0, {"class_prior": 0.9}, 4.0),
                ("remix-norm-unet-sgd", None, {}, 1.0),
                ("bootstrap-norm-sgd", None, {}, 1.0),
                ("supervised-norm-sgd", None, {}, 1.0),
                ("remix-norm-rnn-sgd", None, {}, 1.0),
            )
        ),
    ],
)
def test_eight_devices_equal_one(
    case: str, clamped: float | None, hyperparameters: dict[str, float], positive_gain: float
) -> None:
    one, eight = steps(case)
    begin = state_one = state_eight = start(case, **hyperparameters)
    with_target = "supervised" in case
    # Normalization divides by small deviations, which magnifies rounding.
    tolerance = 1e-4 if "norm" in case else 1e-5
    for number in range(NUM_STEPS):
        batch = make_batch(number, with_target=with_target, positive_gain=positive_gain)
        state_one, expected = one(state_one, batch, KEY)
        state_eight, actual = eight(state_eight, batch, KEY)
        assert set(actual) == set(expected)
        if clamped is not None:
            assert float(expected["clamped"]) == float(actual["clamped"]) == clamped
        for name in {"loss", "gradient_norm", "false_positive_ratio", "empty_mixtures"} & set(expected):
            np.testing.assert_allclose(actual[name], expected[name], rtol=tolerance, err_msg=f"{name} at step {number}")
        if number == 0 and "sgd" in case:
            assert relative_difference(state_eight.opt_state, state_one.opt_state) < 1e-5, "gradients"
    assert int(state_eight.step) == NUM_STEPS
    assert ("empty_mixtures" in expected) == case.startswith("bootstrap")
    assert 0 < float(expected.get("empty_mixtures", 0.5)) < 1
    assert relative_difference(state_eight.params, state_one.params, begin.params) < tolerance
    for part in ("batch_stats", "ema_params", "objective_state"):
        if jax.tree.leaves(getattr(state_one, part)):
            assert relative_difference(getattr(state_eight, part), getattr(state_one, part)) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        PUConfig(estimator="balanced"),
        BrierPUConfig(),
        MixITConfig(minimum_over="batch"),
        NoisyTargetConfig(),
        SupervisedConfig(remix_songs=True),
        PNUConfig(),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_the_first_step_and_evaluation_of_the_other_objectives_on_eight_devices_equal_one(objective: Any) -> None:
    config = make_config(objective, DROPOUT)
    train_step, evaluate_step = make_train_step(config), make_evaluate_step(config)

    def both(state: TrainState, batch: Any, key: jax.Array, axis_name: str | None = None) -> Any:
        return train_step(state, batch, key, axis_name)[1], evaluate_step(state, batch, key, axis_name)

    state, batch = make_state(config), make_batch(0, with_target=isinstance(objective, SupervisedConfig | PNUConfig))
    expected = jax.jit(functools.partial(both, axis_name=None))(state, batch, KEY)
    actual = parallel.over_devices(both)(state, batch, KEY)
    assert {"loss", "gradient_norm", "kept_energy", "inactive_share"} <= set(expected[0])
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), actual, expected)


def test_dropout_is_on_and_follows_the_global_index() -> None:
    """Examples dealt to the devices in another order give the same step, since their indices go with them."""
    one, eight = steps("pu-sgd")
    batch = make_batch(0)
    order = np.random.default_rng(1).permutation(BATCH_SIZE)
    state = start("pu-sgd", class_prior=0.2)
    expected, _ = eight(state, batch, KEY)
    shuffled, _ = eight(state, {name: value[order] for name, value in batch.items()}, KEY)
    assert relative_difference(shuffled.params, expected.params, state.params) < 1e-5
    without_index, _ = eight(state, batch | {"index": batch["index"][order]}, KEY)
    assert relative_difference(without_index.params, expected.params, state.params) > 1e-3
    other_key, _ = one(state, batch, jax.random.key(6))
    assert relative_difference(other_key.params, expected.params, state.params) > 1e-3


def test_the_clamp_is_global() -> None:
    """Half of the devices have a negative bracket, the whole batch has not: only a global clamp sees that."""
    ln3 = np.float32(np.log(3))
    # By device: bracket 1/4 - 0.6 * 3/4 = -0.2, or 3/4 - 0.6 * 1/4 = 0.6; over all devices 0.2.
    sign = np.repeat(np.array([1, -1], np.float32), 4)[:, None] * np.ones((1, 3), np.float32)
    batch = {"positive": (ln3 * sign).reshape(24), "unlabeled": (-ln3 * sign).reshape(24)}

    def loss(shift: jax.Array, batch: dict[str, jax.Array], axis_name: str | None) -> losses.PULoss:
        return losses.pu_loss(batch["positive"] + shift, batch["unlabeled"] + shift, class_prior=0.6, axis_name=axis_name)

    def value_and_gradient(shift: jax.Array, batch: Any, key: jax.Array, axis_name: str | None = None) -> Any:
        gradient, result = jax.grad(
            lambda shift: (loss(shift, batch, axis_name).loss, loss(shift, batch, axis_name)), has_aux=True
        )(shift)
        return result, gradient if axis_name is None else jax.lax.pmean(gradient, axis_name)

    ours, our_gradient = parallel.over_devices(value_and_gradient)(jnp.zeros(()), batch, KEY)
    whole, gradient = value_and_gradient(jnp.zeros(()), batch, KEY)
    np.testing.assert_allclose(ours, whole, atol=1e-6)
    np.testing.assert_allclose(ours.negative_risk, 0.2, atol=1e-6)
    assert float(ours.clamped) == 0
    np.testing.assert_allclose(our_gradient, gradient, rtol=1e-5)
    # What clamping on each device and averaging gives.
    shares = {name: value.reshape(8, 3) for name, value in batch.items()}
    each, each_gradient = jax.vmap(value_and_gradient, (None, 0, None))(jnp.zeros(()), shares, KEY)
    assert abs(float(each.loss.mean()) - float(whole.loss)) > 0.05
    assert abs(float(each_gradient.mean()) - float(gradient)) > 0.01


def test_evaluation_on_eight_devices_equals_one() -> None:
    config = make_config(SupervisedConfig(), BATCH_NORM)
    evaluate_step, state, batch = make_evaluate_step(config), make_state(config), make_batch(0, with_target=True)
    # A silent target on one device: the mean must be over clips, not over devices.
    batch["target"][3:6] = 0
    expected = jax.jit(functools.partial(evaluate_step, axis_name=None))(state, batch, KEY)
    actual = parallel.over_devices(evaluate_step)(state, batch, KEY)
    of_masks = {"kept_energy", "inactive_share", "input_energy", "estimated_error"}
    assert set(actual) == {"loss", "si_sdr_improvement", "audible_clips", "true_kept_energy"} | of_masks
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_batch_size_must_be_a_multiple_of_the_devices() -> None:
    parallel.check_batch_size(16)
    with pytest.raises(ValueError, match=r"^TrainConfig.batch_size is 12; it must be a multiple of the 8 devices .* Try 8\.$"):
        parallel.check_batch_size(12)
    with pytest.raises(ValueError, match=r"Try 8\.$"):
        parallel.check_batch_size(3)


def test_devices_in_words() -> None:
    assert parallel.describe() == "8 x cpu (cpu), 1 process(es)"


DILATED = dataclasses.replace(BATCH_NORM, dilations=((1, 1), (2, 2), (4, 4), (1, 1)), features="power")
OBJECTIVES = [kind() for kind in typing.get_args(ObjectiveConfig)]


@pytest.mark.slow
@pytest.mark.parametrize("model", [DILATED, RNN], ids=lambda config: type(config).__name__)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize(("platform", "form"), [("cpu", "gradient_by_example"), ("cuda", "phases"), ("tpu", "xla")])
def test_the_train_step_lowers_for_every_platform_in_its_own_form(
    objective: Any, model: ModelConfig, platform: str, form: Any
) -> None:
    """On the CPU, without a device of that kind: everything in the step has a translation for it."""
    config = make_config(
        objective, model, mixed_precision=True, gradient_clip=1.0, ema_decay=0.99, schedule="cosine", warmup_steps=5
    )
    batch = {
        name: jax.ShapeDtypeStruct(value.shape, np.float16 if value.dtype == np.float32 else value.dtype)
        for name, value in make_batch(0, with_target=isinstance(objective, SupervisedConfig | PNUConfig)).items()
    }
    state = jax.eval_shape(lambda: init_state(config))
    step = jax.jit(make_train_step(config, form))
    exported = export.export(step, platforms=[platform])(state, batch, jax.eval_shape(lambda: KEY))
    assert exported.platforms == (platform,)
    next_state, statistics = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    shapes = functools.partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
    assert shapes(next_state) == shapes(state)
    assert {"loss", "gradient_norm", "kept_energy", "inactive_share"} <= set(statistics)
    # The network in bfloat16, parameters in float32.
    program = exported.mlir_module()
    assert "bf16" in program
    if model is DILATED:
        # Without dilation by phases; with a loop over examples where their gradients are matrix products.
        assert ("rhs_dilate = [4, 4]" in program) == (form != "phases")
        assert ("stablehlo.while" in program) == (form == "gradient_by_example" or isinstance(objective, BootstrapConfig))


@pytest.mark.slow
@pytest.mark.parametrize(("platform", "form"), [("cuda", "phases"), ("tpu", "xla")])
def test_the_step_of_full_size_lowers_for_accelerators(platform: str, form: Any) -> None:
    config = load_config("musdb18")
    state, key = jax.eval_shape(lambda: (init_state(config), KEY))
    step = jax.jit(make_train_step(config, form))
    exported = export.export(step, platforms=[platform])(state, batch_shapes(config), key)
    assert exported.platforms == (platform,)
    assert 2e6 < sum(leaf.size for leaf in jax.tree.leaves(state.params)) < 1e7
    assert "bf16" in exported.mlir_module()


def test_the_shell_resolves_the_form_from_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parallel.convolution_form() == ("gradient_by_example" if onednn.why_missing() else "onednn")
    monkeypatch.setattr(onednn, "why_missing", lambda: "It is not installed.")
    assert parallel.convolution_form() == "gradient_by_example"
