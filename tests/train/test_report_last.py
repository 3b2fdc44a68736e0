"""The result comes first: no report, picture or console can cost it, and a later launch writes a missing report."""

import json

import pytest

from jopt import report
from jopt.measure import Column
from jopt.train import Stage, display, run
from jopt.train.workdir import Workdir

pytestmark = [pytest.mark.unoptimized, pytest.mark.usefixtures("undrawn")]

# What mathematics, terminals, pages and tables could take for a command.
NAME = "$\\bad{ \x1b[31m \x00 \x85 <b> | `x` [/] :heart: \u202e\u05d0 %{x} \\frac"


class Heard:
    """An observer that keeps warnings and notes, and fails where it is told to."""

    def __init__(self, *failing):
        self.failing, self.warnings, self.notes = failing, [], []

    def plan(self, parts):
        self._show("plan", parts)

    def finished(self, parts):
        self._show("finished", parts)

    def _show(self, name, parts):
        parts()
        if name in self.failing:
            raise OSError(28, "No space left on device")

    def note(self, sentence):
        self.notes.append(sentence)

    def warn(self, sentence):
        self.warnings.append(sentence)

    def training(self, total, start=0):
        return report.SILENT.training(total, start)


def test_a_report_that_cannot_be_written_is_a_warning_and_the_next_launch_writes_it(tmp_path, tiny):
    files, heard = Workdir(tmp_path / "a"), Heard("plan", "finished")
    config = tiny(name=NAME, stages=[Stage("dense", steps=6), Stage("more", steps=6)], pack=True)
    files.create(config)
    (files.path / "report.html").mkdir()
    result = run(config, files.path, observer=heard)
    assert files.load_result() == result
    assert json.loads(files.manifest.read_text())["exit_status"] == "finished"
    assert len(heard.warnings) == 3 and any("report.html" in warning for warning in heard.warnings)
    before = {p: p.read_bytes() for p in files.path.rglob("*") if p.is_file() and "report" not in p.name}

    # Still blocked: a warning again, and the result.
    heard = Heard()
    assert run(config, files.path, observer=heard) == result
    assert len(heard.warnings) == 1 and "report.html" in heard.warnings[0]

    (files.path / "report.html").rmdir()
    heard = Heard()
    assert run(config, files.path, observer=heard) == result
    assert not heard.warnings and len(heard.notes) == 1
    page = (files.path / "report.html").read_text(encoding="utf-8")
    assert "Compression" in page and "Packed file" in page and "<b> |" not in page
    assert "Compression" in files.report.read_text(encoding="utf-8")
    assert before.items() <= {p: p.read_bytes() for p in files.path.rglob("*") if p.is_file()}.items()

    heard = Heard()
    assert run(config, files.path, observer=heard) == result and not heard.notes + heard.warnings

    # The launch that holds the directory may be about to write it.
    files.report.unlink()
    heard = Heard()
    with files.locked():
        assert run(config, files.path, observer=heard) == result
    assert not files.report.exists() and not heard.notes + heard.warnings
    assert run(config, files.path, observer=heard) == result
    assert files.report.is_file() and len(heard.notes) == 1 and not heard.warnings

    # Nothing to write it from.
    files.report.unlink()
    for checkpoint in files.checkpoints.glob("[0-9]*"):
        checkpoint.rename(files.path / f"moved_{checkpoint.name}")
    heard = Heard()
    assert run(config, files.path, observer=heard) == result
    assert any("report" in warning for warning in heard.warnings)


def absent(measured):
    return measured.outcome.params["absent"]


HERS = Column("hers", "of no layer", compute=absent)


@pytest.mark.parametrize("stages", [[Stage("dense", steps=6)], [Stage("dense", steps=6), Stage("more", steps=6)]])
def test_a_column_that_fails_costs_no_result(tmp_path, tiny, stages):
    files, heard = Workdir(tmp_path / "a"), Heard()
    config = tiny(stages=stages, columns=(f"{__name__}:HERS",))
    result = run(config, files.path, observer=heard)
    assert files.load_result() == result and result["hers"] is None
    assert all(row["hers"] is None for row in result.get("stages", []))
    assert json.loads(files.manifest.read_text())["exit_status"] == "finished"
    for warning, stage in zip(heard.warnings, stages, strict=True):
        assert all(word in warning for word in ("'hers'", repr(stage.name), "KeyError", "absent"))
    assert "of no layer" in files.report.read_text()


def test_speeds_are_measured_when_the_result_is_on_the_disk(tmp_path, tiny, monkeypatch):
    files, heard = Workdir(tmp_path / "a"), Heard()

    def measure(prepared, outcomes):
        assert files.result.is_file()
        raise MemoryError

    monkeypatch.setattr(display, "measure_speeds", measure)
    result = run(tiny(stages=[Stage("dense", steps=6), Stage("more", steps=6)]), files.path, observer=heard)
    assert files.load_result() == result and len(heard.warnings) == 1 and "MemoryError" in heard.warnings[0]
    assert json.loads(files.manifest.read_text())["exit_status"] == "finished"


class Fails(Heard):
    """An observer whose progress fails where it is told to."""

    def training(self, total, start=0):
        return self

    def _fail(self, where):
        self.calls = [*getattr(self, "calls", []), where]
        if where in self.failing:
            raise OSError(32, "Broken pipe")

    def __enter__(self):
        self._fail("enter")
        return lambda step, stage, row: self._fail("update")

    def __exit__(self, *error):
        self._fail("exit")
        return True


FAILING = {
    ("enter",): ["enter"],
    ("update",): ["enter", "update", "exit"],
    ("exit",): ["enter", "update", "update", "exit"],
    ("update", "exit"): ["enter", "update", "exit"],
}


@pytest.mark.parametrize("failing", FAILING)
def test_progress_that_fails_is_one_warning_and_then_silence(failing):
    heard = Fails(*failing)
    with report.Careful(heard).training(10) as update:
        for step in (1, 2):
            update(step, "train", {})
    assert heard.calls == FAILING[failing]
    assert len(heard.warnings) == 1 and "Broken pipe" in heard.warnings[0]


@pytest.mark.parametrize("failing", [(), *FAILING])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_of_the_training_passes_the_progress(failing, error):
    with pytest.raises(type(error)) as caught, report.Careful(Fails(*failing)).training(10) as update:
        update(1, "train", {})
        raise error
    assert caught.value is error


def test_progress_that_fails_costs_no_result(tmp_path, tiny):
    files, heard = Workdir(tmp_path / "a"), Fails("update")
    assert run(tiny(), files.path, observer=heard) == files.load_result() and len(heard.warnings) == 1
