"""Files are there whole or not at all."""

import json

import pytest

from jopt import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        files.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_directory_in_the_way_is_an_error_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "result.json").mkdir()
    with pytest.raises(OSError):
        files.write_text(tmp_path / "result.json", "text")
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
