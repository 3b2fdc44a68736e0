"""How the death of a process ends the others; without JAX, which `test_distributed` adds."""

import os
import signal
import time
from pathlib import Path

import pytest

from jopt.processes import LOST
from tests.processes.harness import ends, started, until

PEERS = Path(__file__).with_name("peers.py")


def deeds(deed, victim, count=3, limit="30"):
    """How the processes end after one has done something."""
    with started(PEERS, count, deed, str(victim), LIMIT=limit) as running:
        return ends(running), [one.process.pid for one in running]


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_process_ends_the_others_in_one_line_with_a_status_of_its_own(victim):
    processes, pids = deeds("kill", victim)
    for index, (status, _, stderr) in enumerate(processes):
        if index == victim:
            assert status == -signal.SIGKILL
        else:
            assert status == LOST
            assert stderr.count("\n") == 1
            assert f"process {victim} of 3" in stderr
            assert f"pid {pids[victim]}" in stderr


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_leaves_early_has_died_whatever_its_status(victim):
    processes, _ = deeds("leave", victim, count=2)
    assert [one.status for one in processes] == [LOST if index != victim else 0 for index in range(2)]


@pytest.mark.parametrize("victim", [0, 2])
def test_an_error_of_one_process_ends_the_others_with_its_line_and_status(victim):
    processes, _ = deeds("fail", victim)
    assert [one.status for one in processes] == [2, 2, 2]
    for index, one in enumerate(processes):
        if index != victim:
            assert one.stderr.count("\n") == 1
            assert f"process {victim} of 3" in one.stderr
            assert "epochs must be a positive integer, got -1" in one.stderr


def test_the_same_error_in_all_processes_lets_each_end_by_itself():
    processes, _ = deeds("fail all", 0, count=2)
    assert [one.status for one in processes] == [2, 2]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_is_stuck_counts_as_dead_and_ends_when_it_goes_on(victim):
    with started(PEERS, 3, "stop", str(victim), LIMIT="3") as running:
        others = [one for index, one in enumerate(running) if index != victim]
        for one in ends(others):
            assert one.status == LOST
            assert f"process {victim} of 3" in one.stderr
        assert running[victim].process.poll() is None
        running[victim].signal(signal.SIGCONT)
        assert ends([running[victim]])[0].status == LOST


def test_a_run_that_was_stopped_as_a_whole_goes_on():
    with started(PEERS, 2, "busy", "0", LIMIT="3") as running:
        for one in running:
            one.wait_for("busy")
        for one in running:
            one.signal(signal.SIGSTOP)
        until(lambda: all(is_stopped(one.process.pid) for one in running))
        time.sleep(4)
        for one in running:
            one.signal(signal.SIGCONT)
        assert [one.status for one in ends(running)] == [0, 0]


def is_stopped(pid):
    return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None


def test_whoever_is_done_waits_for_the_others():
    processes, _ = deeds("late", 1)
    assert [(one.status, one.stderr) for one in processes] == [(0, "")] * 3
    assert all("finished" in one.stdout for one in processes)


def test_a_signal_to_one_process_stops_all_at_the_same_boundary():
    processes, _ = deeds("signal", 1)
    assert [one.status for one in processes] == [0, 0, 0]
    assert {one.stdout.splitlines()[1] for one in processes} == {f"3 {int(signal.SIGTERM)}"}


def test_kills_of_several_at_once_leave_none():
    with started(PEERS, 4, "kill", "9", LIMIT="30") as running:
        for one in running:
            one.wait_for("met")
        for one in running[1:3]:
            one.signal(signal.SIGKILL)
        assert [one.status for one in ends(running)] == [LOST, -signal.SIGKILL, -signal.SIGKILL, LOST]
