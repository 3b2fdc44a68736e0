import struct
import threading

import numpy as np
import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from jopt.files import sweep
from jopt.report import Writer, rewrite


def read(directory):
    """(tag, step, value, wall time) of every scalar, file by file in the order in which TensorBoard reads them."""
    out = []
    for path in sorted(directory.glob("*tfevents*")):
        data, at, events = path.read_bytes(), 0, []
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            body = data[at + 12 : at + 12 + length]
            assert struct.unpack_from("<I", data, at + 8)[0] == masked_crc32c(data[at : at + 8])
            assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked_crc32c(body)
            events.append(event_pb2.Event.FromString(body))
            at += 16 + length
        assert events[0].file_version == "brain.Event:2"
        for event in events[1:]:
            out += [(v.tag, event.step, v.simple_value, event.wall_time) for v in event.summary.value]
    return out


def expected(rows):
    keys = ("loss", "accuracy", "steps_per_second", "learning_rate")
    return [
        (f"{r['split']}/{k}", r["step"], float(np.float32(r[k])), r["time"]) for r in rows for k in keys if k in r
    ]


def test_events_are_the_rows(tmp_path, metric_rows):
    rows = metric_rows()
    with Writer(tmp_path / "run") as writer:
        writer.write(rows[:50])
        assert read(tmp_path / "run") == expected(rows[:50])  # on disk as soon as written
        writer.write(rows[50:])
        writer.close()
    assert read(tmp_path / "run") == expected(rows)


def test_a_resume_doubles_nothing(tmp_path, metric_rows):
    rows = metric_rows()
    with Writer(tmp_path) as writer:
        writer.write(rows)
    (tmp_path / "metrics.jsonl").write_text("kept")
    rewrite(tmp_path, rows[:30])
    assert read(tmp_path) == expected(rows[:30])
    with Writer(tmp_path) as writer:
        writer.write(rows[30:])
    assert read(tmp_path) == expected(rows)
    rewrite(tmp_path, rows)
    assert read(tmp_path) == expected(rows)
    assert len(list(tmp_path.iterdir())) == 2


def test_writers_of_the_same_second_do_not_overwrite_each_other(tmp_path, metric_rows):
    rows = metric_rows()
    for row in rows[:4]:
        with Writer(tmp_path) as writer:
            writer.write([row])
    assert read(tmp_path) == expected(rows[:4])


def test_what_is_no_number_is_left_out_and_numpy_numbers_are_in(tmp_path):
    row = {"step": np.int64(3), "stage": "a", "split": "train", "loss": np.float32(0.5), "ok": True, "digest": "ab",
           "accuracy": None, "norm": float("inf"), "time": 7.0}  # fmt: skip
    with Writer(tmp_path) as writer:
        writer.write([row])
    assert read(tmp_path) == [("train/loss", 3, 0.5, 7.0), ("train/norm", 3, float("inf"), 7.0)]


def test_a_failed_rewrite_leaves_the_events(tmp_path, metric_rows):
    rows = metric_rows()
    with Writer(tmp_path) as writer:
        writer.write(rows)
    with pytest.raises(KeyError):
        rewrite(tmp_path, [{"step": 1, "loss": 1.0}])
    assert read(tmp_path) == expected(rows)


def test_no_link_is_written_through(tmp_path, metric_rows):
    victim, directory = tmp_path / "victim", tmp_path / "run"
    victim.write_text("mine")
    directory.mkdir()
    for name in (".events.partial", "events.out.tfevents.0000000001.host"):
        (directory / name).symlink_to(victim)
    rewrite(directory, metric_rows())
    with Writer(directory) as writer:
        writer.write(metric_rows())
    assert victim.read_text() == "mine"


def test_a_rewrite_that_was_killed_leaves_what_the_next_launch_removes(tmp_path, monkeypatch, metric_rows):
    # Nothing that a process does at its end happens after a kill.
    monkeypatch.setattr("pathlib.Path.unlink", lambda *args, **kwargs: None)
    with pytest.raises(KeyError):
        rewrite(tmp_path, [{"step": 1, "loss": 1.0}])
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_thread_is_left_behind(tmp_path):
    before = threading.active_count()
    with Writer(tmp_path):
        assert threading.active_count() == before
