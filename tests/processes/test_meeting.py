"""Processes meet, agree and part: here each is an object with a thread and a connection of its own."""

import contextlib
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from jopt.config import ConfigError
from jopt.processes.calls import check_same, check_shared
from jopt.processes.errors import ProcessError
from jopt.processes.layout import Layout
from jopt.processes.member import Member
from jopt.processes.primary import Primary
from jopt.processes.wire import PROTOCOL
from tests.processes.harness import free_port


def message(value):
    text = json.dumps(value).encode()
    return len(text).to_bytes(4, "big") + text


def team(port, count, index):
    return (Member if index else Primary)(Layout("127.0.0.1", port, count, index), limit=30)


def outcomes(*calls):
    """What each call returns or raises, all made at the same time."""

    def outcome(call):
        try:
            return call()
        except (ProcessError, ConfigError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(outcome, calls))


def opened(*teams, timeout=20.0):
    """What comes of opening them at the same time."""
    return outcomes(*(lambda one=one: one.open(timeout) for one in teams))


@contextlib.contextmanager
def met(count):
    port = free_port()
    teams = [team(port, count, index) for index in range(count)]
    try:
        assert opened(*teams) == [None] * count
        yield teams
    finally:
        outcomes(*(one.finish for one in teams))


@pytest.fixture(scope="module")
def three():
    with met(3) as teams:
        yield teams


def each(teams, call):
    return outcomes(*(lambda one=one: call(one) for one in teams))


def test_all_know_all_processes(three):
    assert [one.processes for one in three] == [[other.this for other in three]] * 3


def test_every_process_gets_all_values_by_index(three):
    assert (
        each(three, lambda one: one.gather("value", {"of": one.this.index}))
        == [[{"of": 0}, {"of": 1}, {"of": 2}]] * 3
    )


def test_a_value_may_be_large(three):
    assert each(three, lambda one: one.gather("text", "x" * 2**20)) == [["x" * 2**20] * 3] * 3


def test_processes_at_different_calls_hear_of_each_other(three):
    found = each(three, lambda one: one.gather("save" if one.this.index == 2 else "stop", None))
    assert all(isinstance(error, ProcessError) for error in found)
    assert all("'save'" in str(error) and "'stop'" in str(error) for error in found)
    # They are in step again.
    assert each(three, lambda one: one.gather("next", one.this.index)) == [[0, 1, 2]] * 3


def test_a_process_that_does_not_come_in_time_is_named(three):
    found = each(three[:2], lambda one: one.gather("late", None, timeout=0.2))
    assert all(isinstance(error, ProcessError) and str(three[2].this) in error.reason for error in found)
    # It hears of it too, when it comes.
    assert isinstance(outcomes(lambda: three[2].gather("late", None))[0], ProcessError)


def test_values_that_differ_are_named_with_their_processes(three):
    assert each(three, lambda one: check_same(one, "the version of JAX", "0.10.2")) == [None] * 3
    found = each(
        three, lambda one: check_same(one, "the version of JAX", "0.11" if one.this.index == 1 else "0.10")
    )
    assert {error.subject for error in found} == {"the version of JAX"}
    assert all(str(three[1].this) in error.reason and "'0.11'" in error.reason for error in found)
    assert not any(str(three[2].this) in error.reason for error in found)


def test_a_shared_directory_is_seen_by_all_and_left_clean(three, tmp_path):
    assert each(three, lambda one: check_shared(one, tmp_path)) == [None] * 3
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_shared_names_who_cannot_see_it(three, tmp_path):
    for index in range(3):
        (tmp_path / str(index)).mkdir()
    found = each(three, lambda one: check_shared(one, tmp_path / str(one.this.index % 2), seconds=0.1))
    assert all(isinstance(error, ProcessError) and str(three[1].this) in error.reason for error in found)
    assert not any(str(three[2].this) in error.reason for error in found)
    assert list((tmp_path / "0").iterdir()) == []


def test_a_directory_that_the_primary_cannot_write_is_an_error_in_all(three, tmp_path):
    found = each(three, lambda one: check_shared(one, tmp_path / "absent", seconds=0.1))
    assert all(isinstance(error, ProcessError) and str(three[0].this) in error.reason for error in found)


def test_processes_that_were_told_different_numbers_do_not_start():
    port = free_port()
    found = opened(team(port, 3, 0), team(port, 2, 1))
    assert [error.subject for error in found] == ["num_processes"] * 2


def test_two_processes_of_one_number_do_not_start():
    port = free_port()
    found = opened(team(port, 3, 0), team(port, 3, 1), team(port, 3, 1))
    assert [error.subject for error in found] == ["process_id"] * 3


def test_a_second_coordinator_at_the_same_address_is_refused():
    port = free_port()
    first, second, member = team(port, 2, 0), team(port, 2, 0), team(port, 2, 1)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(first.open, 20)
        joined = pool.submit(member.open, 20)
        waiting.result()
        joined.result()
    assert [error.field for error in opened(second)] == ["coordinator"]
    outcomes(first.finish, member.finish)


def test_an_address_that_another_program_uses_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert [error.field for error in opened(team(other.getsockname()[1], 2, 0))] == ["coordinator"]


def test_absent_processes_are_named():
    port = free_port()
    primary, member = team(port, 4, 0), team(port, 4, 2)
    found = outcomes(lambda: primary.open(1), lambda: member.open(20))
    assert all(isinstance(error, ProcessError) and "1, 3" in error.reason for error in found)


def test_a_coordinator_that_does_not_answer_is_an_error():
    [error] = opened(team(free_port(), 2, 1), timeout=0.3)
    assert isinstance(error, ProcessError)
    assert "coordinator 127.0.0.1:" in error.subject


def test_a_host_that_does_not_exist_is_an_error():
    member = Member(Layout("no-such-host.invalid", 1, 2, 1), limit=30)
    [error] = opened(member, timeout=0.3)
    assert isinstance(error, ProcessError)


def test_another_program_at_the_address_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer():
            connection, _ = other.accept()
            with connection:
                connection.recv(10)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        [error] = opened(team(other.getsockname()[1], 2, 1))
        thread.join()
    assert isinstance(error, ProcessError)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        message(3),
        message({}),
        message({"protocol": PROTOCOL, "process": [1, "x"]}),
        b"\0\0\0\1{",
    ],
)
def test_strangers_and_latecomers_do_not_disturb_a_run(three, sent):
    port = three[0].layout.port
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(sent)
        stranger.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert stranger.recv(10) == b""
    [error] = opened(team(port, 3, 1))
    assert isinstance(error, ProcessError)
    assert each(three, lambda one: one.gather("still", one.this.index)) == [[0, 1, 2]] * 3
