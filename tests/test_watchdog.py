"""The watchdog speaks once when output goes blank, and not before."""

import pytest

from jaxpu.watchdog import BLANK_KEPT_ENERGY, WINDOW_STEPS, Watchdog


def run(watchdog: Watchdog, steps: int, *, first: int = 1, kept_energy: float, **metrics: float) -> list[tuple[int, str]]:
    """Warnings, with their steps."""
    values = {"kept_energy": kept_energy, "inactive_share": 1 - kept_energy, **metrics}
    spoken = [(step, watchdog.update(step, values)) for step in range(first, first + steps)]
    return [(step, text) for step, text in spoken if text is not None]


def test_silent_on_a_healthy_run() -> None:
    watchdog = Watchdog(class_prior=0.7)
    assert run(watchdog, 5 * WINDOW_STEPS, kept_energy=0.4) == []
    assert run(watchdog, WINDOW_STEPS, kept_energy=BLANK_KEPT_ENERGY * 1.01) == []


def test_one_blank_batch_is_no_blank_run() -> None:
    watchdog = Watchdog()
    run(watchdog, WINDOW_STEPS, kept_energy=0.3)
    assert run(watchdog, 10, kept_energy=0.0) == []
    assert watchdog.kept_energy == pytest.approx(0.27)


def test_silent_until_the_window_is_full() -> None:
    watchdog = Watchdog()
    assert run(watchdog, WINDOW_STEPS - 1, kept_energy=0.0) == []
    assert [step for step, _ in run(watchdog, 5, first=WINDOW_STEPS, kept_energy=0.0)] == [WINDOW_STEPS]


def test_speaks_once_when_output_goes_blank_and_again_only_after_a_recovery() -> None:
    watchdog = Watchdog(class_prior=0.7)
    run(watchdog, WINDOW_STEPS, kept_energy=0.5)
    # The mean over the window falls below 1 % when no more than one of its steps is a healthy one.
    assert [step for step, _ in run(watchdog, 1000, first=101, kept_energy=0.0)] == [199]
    assert run(watchdog, 1000, first=1101, kept_energy=0.5) == []
    assert len(run(watchdog, 1000, first=2101, kept_energy=0.0)) == 1


def test_says_what_it_saw_and_names_the_likely_reason() -> None:
    ((step, text),) = run(Watchdog(class_prior=0.7), WINDOW_STEPS, kept_energy=0.004, clamped=0.25, inactive_share=0.998)
    assert step == 100
    assert text == (
        "Step 100: the output is blank. Over the last 100 steps the mask kept 0.40% of the energy "
        "and took 99.8% of the bins for target inactive; the clamp acted on 25% of the steps. "
        "Likely reason: with a class prior of 0.7, above 1/2, blank output is the best constant answer, "
        "and the sigmoid loss has no gradient there. "
        "Lower the class prior, or use the objective of configs/demo.py, which needs none."
    )


def test_does_not_blame_a_class_prior_that_is_small_or_absent() -> None:
    ((_, small),) = run(Watchdog(class_prior=0.4), WINDOW_STEPS, kept_energy=0.0)
    assert "Likely reason" not in small
    assert "Lower the class prior" in small
    ((_, absent),) = run(Watchdog(), WINDOW_STEPS, kept_energy=0.0)
    assert "class prior" not in absent
    assert absent.endswith("Check that the recordings without the target are as loud as the accompaniment of the others.")
