"""`jopt train` as one of several processes: what is refused, and who says it."""

import socket
import subprocess
import sys

import pytest

from tests.processes.harness import free_port


def several(coordinator, count, index, *, timeout=0.3):
    flags = {"coordinator": coordinator, "num_processes": count, "process_id": index, "processes_timeout": timeout}
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (several("node1", 2, 0), ["coordinator", "node1"]),
        (several(None, 2, 0), ["coordinator", "--num_processes"]),
        (several("node1:80", None, 0), ["num_processes"]),
        (several("node1:80", 2, None), ["process_id"]),
        (several("node1:80", 2, 2), ["process_id", "2"]),
        (several("node1:80", 0, 0), ["num_processes", "0"]),
        (several("node1:80", "two", 0), ["num_processes", "two"]),
    ],
)
def test_flags_that_do_not_fit_together_are_one_line(forked, refused, config, tmp_path, flags, names):
    line = refused(forked("train", f"--config={config}", f"--workdir={tmp_path / 'run'}", *flags), 2)
    assert all(name in line for name in names)
    assert not (tmp_path / "run").exists()


def test_an_address_in_use_is_one_line(forked, refused, config, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = forked("train", f"--config={config}", f"--workdir={tmp_path / 'run'}", *several(address, 2, 0))
    assert address in refused(done, 2)


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_come_are_one_line(forked, refused, config, tmp_path, index):
    address = f"127.0.0.1:{free_port()}"
    done = forked("train", f"--config={config}", f"--workdir={tmp_path / 'run'}", *several(address, 2, index))
    assert address in refused(done, 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["ablate", "search"])
def test_other_commands_have_no_such_flags(forked, refused, config, tmp_path, command):
    line = refused(forked(command, f"--config={config}", f"--workdir={tmp_path / 'run'}", "--num_processes=2"), 2)
    assert "num_processes" in line


def test_an_error_in_one_process_ends_the_other_with_its_line_and_status(config, environment, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    command = [
        sys.executable,
        "-m",
        "jopt",
        "train",
        f"--config={config}",
        f"--workdir={tmp_path / 'run'}",
        "--quiet",
    ]
    running = [
        subprocess.Popen(
            [*command, *several(address, 2, index, timeout=60), *flags],
            env={**environment, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, flags in enumerate(([], ["--trial=absent"]))
    ]
    try:
        outputs = [process.communicate(timeout=100) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [2, 2]
    for index, (stdout, stderr) in enumerate(outputs):
        assert stdout == ""
        assert stderr.count("\n") == 1
        assert stderr.startswith(f"[process {index}] ")
        assert "--trial" in stderr
