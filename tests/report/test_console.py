import io
import os
import re
import subprocess
import sys
import time

import pytest
from packed_files import lenet

from jopt.report import SILENT, Console, Details, Figure, Findings, Heading, Progress, Table

ROW = {"loss": 0.25, "accuracy": 0.5, "steps_per_second": 2000.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Broken(Terminal):
    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise ValueError("I/O operation on closed file")


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_plain_lines_are_rare_and_the_last_is_there():
    stream = io.StringIO()
    with Progress(1000, stream=stream, interval=60) as progress:
        for step in range(10, 1001, 10):
            progress.update(step, "train", ROW)
        progress.update(1000, "train", {"split": "validation", "accuracy": 0.75})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("train 10/1000 (1%)  loss 0.25  accuracy 50.00%  2000 steps/s  elapsed 0:00  left")
    assert lines[1].startswith("train 1000/1000 (100%)") and "validation accuracy 75.00%" in lines[1]
    assert "\x1b" not in stream.getvalue()


def test_time_left_is_that_of_this_process_after_a_resume(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress(1000, start=500, stream=stream, interval=0) as progress:
        for step in (600, 700):  # 100 steps in 30 seconds: 300 more take 90
            now[0] += 30
            progress.update(step, "train", {})
    assert stream.getvalue().splitlines()[-1] == "train 700/1000 (70%)  elapsed 1:00  left 1:30"


def test_a_terminal_gets_a_live_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(1000, stream=stream) as progress:
        progress.update(1000, "prune", ROW)
    text = plain(stream.getvalue())
    assert "prune" in text and "1000/1000" in text and "loss 0.25 acc 50.0% 2000/s" in text


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(10, stream=stream) as progress:
        progress.update(10, "train", ROW)
    assert stream.getvalue().startswith("train 10/10 (100%)") and "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_broken_terminal_stops_nothing(monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    closed = io.StringIO()
    closed.close()
    for stream in (Broken(), closed):
        with Progress(10, stream=stream, interval=0) as progress:
            for step in range(11):
                progress.update(step, "train", ROW)
            time.sleep(0.3)  # the display refreshes itself from a thread, which must not die either


def test_odd_metrics():
    with Progress(0, stream=io.StringIO(), interval=0) as progress:
        progress.update(0, "", {})
        progress.update(1, "train", {"loss": float("nan"), "accuracy": None, "steps_per_second": 0.0})


def test_an_exception_inside_goes_through():
    with pytest.raises(KeyError), Progress(10, stream=io.StringIO()):
        raise KeyError


def test_imports_are_light():
    code = """
import sys, jopt.report
from jax._src import xla_bridge
assert not xla_bridge._backends, "a backend was started"
for name in ("matplotlib", "plotly", "rich", "tensorboardX", "PIL"):
    assert name not in sys.modules, name
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def fail():
    raise AssertionError("parts are computed only by who shows them")


def test_the_silent_observer_prints_nothing_and_computes_nothing(capsys, caplog):
    SILENT.plan(fail)
    SILENT.note("on the way")
    SILENT.finished(fail)
    with SILENT.training(10) as update:
        update(5, "train", ROW)
    SILENT.warn("a checkpoint is damaged")
    assert capsys.readouterr() == ("", "") and caplog.messages == ["a checkpoint is damaged"]


def test_the_console_prints_parts(capsys):
    path = "/a/rather/long/path/" * 12 + "report.html"
    parts = [Heading("Title"), Findings(["It fits.", "[bold]x[/bold]"]), Table("T", ("a",), "l", [("1",)]), lenet()]
    parts += [Figure("f", "not shown", "", [], {}), Details("not shown", ["nor this"]), f"report: {path}"]
    console = Console()
    console.plan(lambda: parts)
    console.note("going on")
    console.warn("careful")
    out, err = capsys.readouterr()
    assert out.startswith("Title\n- It fits.\n- [bold]x[/bold]\nT") and "Dense_0/kernel" in out
    assert f"report: {path}\n" in out and out.endswith("going on\n")
    assert "not shown" not in out and "nor this" not in out
    assert err == "warning: careful\n"


def test_a_quiet_console_prints_warnings_alone(capsys):
    console = Console(quiet=True)
    console.plan(fail)
    console.finished(fail)
    with console.training(10) as update:
        update(10, "train", ROW)
    console.warn("careful")
    assert capsys.readouterr() == ("", "warning: careful\n")
