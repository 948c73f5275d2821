"""The signals that ask training to stop."""

import os
import signal

import pytest

from jaxpu.monitoring.run_log import StopSignal


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_asks_to_stop_and_the_handler_before_comes_back(number: signal.Signals) -> None:
    inherited = signal.signal(number, signal.default_int_handler)  # The tests may run under nohup.
    try:
        with StopSignal() as stop_signal:
            assert not stop_signal.received
            os.kill(os.getpid(), number)
            assert stop_signal.received
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, inherited)


def test_under_nohup_training_outlives_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop_signal:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop_signal.received
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
