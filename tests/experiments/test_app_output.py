"""Output in any encoding, or that cannot be written, costs no result; errors of the machine are one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# A workdir and a name that ASCII lacks, of another direction, and with what pages and terminals may interpret.
NAME = "\u05d0 µ $\\bad{ \x1b[31m <b> [/] ` =1+1"


@pytest.fixture
def shell(cache, environment):
    """Runs a shell line in which {app} is an app's command; returns the statuses of its pipe and standard error."""

    def start(line, name, *args, **changes):
        args = [*map(str, args)] + ([f"--compilation_cache={cache}"] if name not in ("inspect", "compare") else [])
        env = {**environment, **changes}
        command = line.format(app='"$@"') + '; echo "${PIPESTATUS[*]}" >&2'
        argv = ["bash", "-c", command, "bash", sys.executable, "-m", "jopt", name, *args]
        done = subprocess.run(argv, env=env, capture_output=True, timeout=300, check=False)
        *errors, statuses = done.stderr.decode(errors="replace").splitlines()
        return [int(status) for status in statuses.split()], errors, done.stdout

    return start


def fast(config, run):
    return [f"--config={config}", f"--workdir={run}", "--config.epochs=1", f"--config.name={NAME}"]


def test_ascii_output_and_a_name_that_nothing_escapes(shell, config, tmp_path):
    run = tmp_path / "\u05d0 µ $x"
    statuses, errors, output = shell("{app}", "train", *fast(config, run), PYTHONIOENCODING="ascii")
    assert statuses == [0] and not [line for line in errors if "%)" not in line], errors
    assert output.isascii() and b"\x1b" not in output
    assert (run / "report.html").is_file() and (run / "result.json").is_file()
    # The same in the C locale, of a reader of the run.
    statuses, errors, output = shell("{app}", "inspect", run, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert statuses == [0] and not errors and output.isascii()


def check_finished(run, errors):
    assert not [text for text in errors if "Traceback" in text]
    assert json.loads((run / "manifest.json").read_text())["exit_status"] == "finished"
    assert (run / "report.html").is_file() and (run / "result.json").is_file()


def test_a_full_disk_behind_standard_output_costs_no_result(forked, config, runs, tmp_path):
    done = forked("train", *fast(config, tmp_path / "run"), stdout="/dev/full")
    assert done.returncode == 0, done.stderr
    check_finished(tmp_path / "run", done.stderr.splitlines())
    assert done.stderr.count("warning: standard output cannot be written") == 1
    # For an app whose output is all that it makes, it is an error.
    done = forked("inspect", runs / "a", stdout="/dev/full")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("OSError")


@pytest.mark.slow
@pytest.mark.parametrize("line", ["{app} >&-", "{app} | head -c 1 > /dev/null"])
def test_standard_output_that_is_closed_costs_no_result(shell, config, tmp_path, line):
    statuses, errors, _ = shell(line, "train", *fast(config, tmp_path / "run"))
    assert statuses[0] == 0, errors
    check_finished(tmp_path / "run", errors)


@pytest.mark.slow
def test_a_reader_that_goes_away_has_its_status(shell, runs, tmp_path):
    for name, args in (("compare", [runs / "a", runs / "b", f"--out={tmp_path}"]), ("inspect", [runs / "a"])):
        statuses, errors, _ = shell("{app} | true", name, *args)
        assert statuses[0] == 141 and not errors, errors


@pytest.mark.slow
def test_a_full_disk_in_a_run_is_one_line(shell, config, tmp_path):
    # The largest file that the process may write: neither page nor packed file fits, nor the manifest at the end.
    run = tmp_path / "run"
    statuses, errors, _ = shell("ulimit -f 1; {app}", "train", *fast(config, run), "--quiet")
    assert statuses == [1] and len(errors) == 1 and "File too large" in errors[0], errors
    statuses, errors, _ = shell("{app}", "train", *fast(config, run), "--quiet")
    assert statuses == [0] and not errors
    assert Path(run / "result.json").is_file()


@pytest.mark.parametrize("name", ["ablate", "compare", "export", "inspect", "predict", "search", "train", "verify"])
def test_every_app_tells_its_flags(forked, name):
    ends = {"--helpxml": "</AllFlags>"}
    if name == "ablate":
        ends |= {"--help": "get a list of all flags.", "--helpfull": ""}
    for form, end in ends.items():
        done = forked(name, form)
        status = 0 if form == "--help" else 1  # absl's own
        assert (done.returncode, done.stderr) == (status, "") and done.stdout.strip().endswith(end)
