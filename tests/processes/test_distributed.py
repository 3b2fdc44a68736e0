"""Processes with JAX: gloo over real connections. Slow ones: four processes, and each kind of death."""

import json
import signal
from pathlib import Path

import pytest

from jopt import processes
from tests.processes.harness import ends, started

SCRIPT = Path(__file__).with_name("script.py")


def after(deed, victim, directory, count=2):
    with started(SCRIPT, count, deed, str(victim), str(directory)) as running:
        return ends(running)


def check_that_all_agree(ended, count):
    assert [one.status for one in ended] == [0] * count, [one.stderr for one in ended]
    for index, one in enumerate(ended):
        # Gloo writes there too.
        found = json.loads(one.stdout.splitlines()[-1])
        assert found == {
            "count": count,
            "index": index,
            "primary": index == 0,
            "jax": [count, index, count, 1],
            "sum": float(sum(range(2 * count))),
            "gather": list(range(count)),
            "agree": {"from": 0},
            "any": [True, False],
            "same": [None, "index"],
            "shared": None,
            "twice": "processes",
            # JAX's own handler would take the signal from the app's.
            "signals": [signal.SIGTERM],
        }
        assert one.stderr == ""


def test_two_processes_are_one_backend_and_agree(tmp_path):
    # They also agree on an error, after which they end in order.
    check_that_all_agree(after("agree", 0, tmp_path), 2)


def test_the_death_of_the_coordinator_in_a_collective_ends_the_others_in_one_line(tmp_path):
    dead, other = after("collective", 0, tmp_path)
    assert dead.status == -signal.SIGKILL
    assert other.status == processes.LOST
    assert other.stderr.count("\n") == 1
    assert "process 0 of 2" in other.stderr


@pytest.mark.slow
def test_four_processes_agree(tmp_path):
    check_that_all_agree(after("nothing", 0, tmp_path, 4), 4)


@pytest.mark.slow
@pytest.mark.parametrize("victim", range(4))
def test_a_death_in_a_collective_of_four_ends_all_in_one_line(tmp_path, victim):
    ended = after("collective", victim, tmp_path, 4)
    for index, one in enumerate(ended):
        assert one.status == (-signal.SIGKILL if index == victim else processes.LOST)
        assert index == victim or (one.stderr.count("\n") == 1 and f"process {victim} of 4" in one.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_an_exception_is_seen_where_it_was_raised_and_named_elsewhere(tmp_path, victim):
    ended = after("raise", victim, tmp_path)
    assert [one.status for one in ended] == [1, 1]
    assert "ValueError: a defect" in ended[victim].stderr.splitlines()[-1]
    assert ended[1 - victim].stderr.count("\n") == 1
    assert f"process {victim} of 2" in ended[1 - victim].stderr


def test_one_process_needs_nothing(tmp_path):
    with processes.start(None, 1, None):
        assert (processes.count(), processes.index(), processes.is_primary()) == (1, 0, True)
        assert processes.gather("x", 3) == [3]
        assert processes.agree("a") == "a"
        assert processes.any_of(True)
        processes.barrier("b")
        processes.same("c", 1)
        processes.shared(tmp_path / "absent")
