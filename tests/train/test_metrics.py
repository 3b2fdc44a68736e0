"""metrics.jsonl: whole lines, no doubled or lost rows."""

import pytest

from jopt.train import metrics

ROWS = [{"step": s, "split": split, "loss": 1 / (s + 1)} for s in range(4) for split in ("train", "validation")]


def test_rows_come_back_exactly(tmp_path):
    metrics.append(tmp_path / "m", ROWS[:3])
    metrics.append(tmp_path / "m", ROWS[3:])
    assert metrics.read(tmp_path / "m") == ROWS


def test_no_file_is_no_rows(tmp_path):
    assert metrics.read(tmp_path / "m") == []
    assert metrics.truncate(tmp_path / "m", lambda row: True) == []


@pytest.mark.parametrize("cut", [1, 10, 30])
def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path, cut):
    metrics.append(tmp_path / "m", ROWS)
    text = (tmp_path / "m").read_text()
    (tmp_path / "m").write_text(text[:-cut])
    assert metrics.read(tmp_path / "m") == ROWS[:-1]
    assert metrics.truncate(tmp_path / "m", lambda row: True) == ROWS[:-1]
    metrics.append(tmp_path / "m", ROWS[-1:])
    assert metrics.read(tmp_path / "m") == ROWS


def test_truncate_keeps_the_step_itself(tmp_path):
    metrics.append(tmp_path / "m", ROWS)
    assert metrics.truncate(tmp_path / "m", lambda row: row["step"] <= 2) == ROWS[:6]
    assert metrics.read(tmp_path / "m") == ROWS[:6]


@pytest.mark.parametrize("line", ["nonsense", "[1, 2]"])
def test_any_other_damage_is_named_by_its_line(tmp_path, line):
    (tmp_path / "m").write_text('{"step": 1}\n' + line + '\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2: not"):
        metrics.read(tmp_path / "m")


def test_a_number_that_json_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError):
        metrics.append(tmp_path / "m", [{"step": 1, "loss": float("nan")}])


@pytest.mark.parametrize("content", [b"not json\n", b"\xff\x00\n[]\n", b"[" * 100_000 + b"\n"])
def test_where_nothing_is_resumed_nothing_is_read(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    log = metrics.Log(tmp_path / "m")
    assert log.resume(None, lambda row: True) == []
    log.append(ROWS[:2])
    assert metrics.read(tmp_path / "m", str(log.position["metrics_sha256"])) == ROWS[:2]
