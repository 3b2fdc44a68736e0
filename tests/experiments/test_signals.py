"""Signals save a run and end it with their own status; who handles them, and until when."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jopt.apps.signals import SavedAndStopped, saving
from jopt.train.workdir import StopRequested

ALL = ("TERM", "HUP", "INT", "USR1")


@pytest.fixture(autouse=True)
def defaults():
    """Signals as in a terminal: under nohup, or in the background of a shell, some are ignored from the start."""
    numbers = [signal.Signals[f"SIG{name}"] for name in ALL]
    default = {number: signal.SIG_DFL for number in numbers} | {signal.SIGINT: signal.default_int_handler}
    previous = {number: signal.signal(number, handler) for number, handler in default.items()}
    yield
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ALL)
def test_a_signal_is_noted_and_the_stop_that_follows_has_its_status(name):
    number = signal.Signals[f"SIG{name}"]
    before = signal.getsignal(number)
    with pytest.raises(SavedAndStopped) as stopped, saving(ALL) as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        os.kill(os.getpid(), signal.SIGUSR1)
        raise StopRequested("saved")
    assert stopped.value.status == 128 + number and str(stopped.value) == "saved"
    assert signal.getsignal(number) == before


def test_a_second_interrupt_ends_at_once():
    with pytest.raises(KeyboardInterrupt), saving(ALL) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        os.kill(os.getpid(), signal.SIGINT)


def test_an_ignored_signal_stays_ignored_and_an_unnamed_one_is_not_handled():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with saving(("TERM", "HUP")) as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop() and signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_stop_without_a_signal_is_passed_on():
    with pytest.raises(StopRequested), saving(ALL):
        raise StopRequested("saved")


def test_unknown_signals_are_refused(forked, config, refused, tmp_path):
    done = forked("train", f"--config={config}", f"--workdir={tmp_path / 'run'}", "--save_on=TERM,KILL")
    assert "save_on" in refused(done, 2)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n == "HUP" else pytest.mark.slow) for n in ALL])
def test_a_signalled_app_saves_exits_with_its_status_and_goes_on(name, config, cache, environment, tmp_path):
    run = tmp_path / "run"
    number = signal.Signals[f"SIG{name}"]
    # Too long to end by itself; nothing but the signal saves.
    flags = [f"--config={config}", f"--workdir={run}", f"--compilation_cache={cache}", "--quiet"]
    flags += ["--config.epochs=100000", "--config.checkpoint_every=100000", "--checkpoint_minutes=inf"]
    command = [sys.executable, "-m", "experiments.train", *flags]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            while process.poll() is None and not (run / "metrics.jsonl").exists():
                time.sleep(0.01)
            process.send_signal(number)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 128 + number, errors
    lines = errors.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f"SIG{name}:"), errors
    assert any((run / "checkpoints").iterdir())
