"""What is no remote directory, or cannot be used as one, is refused in one line that names it."""

import json
import os
from pathlib import Path

import fsspec
import pytest
from faulty import Faulty
from tiny import smallest_experiment

from jopt.config import ConfigError
from jopt.files import seal
from jopt.paths import expanded
from jopt.remote import store as stores
from jopt.remote.errors import RemoteError, explain
from jopt.remote.names import check_name, listed
from jopt.remote.opening import opened
from jopt.remote.reading import local_copy
from jopt.remote.store import Store
from jopt.train import run
from jopt.train.checkpoint import _LEFTOVER, _REMOVED, _SAVING
from jopt.train.directory import Directory, LinkError

URL = "faulty://bucket/runs/a"


@pytest.mark.parametrize(
    "url",
    [
        "nosuch://bucket/a",
        "s3://",
        "file:///",
        "gs://bucket//a",
        "gs://bucket/../a",
        "gs://bucket/./a",
        "sftp://me:secret@host/a",
        "gs://bucket/a\nb",
    ],
)
def test_urls_that_name_no_directory(machine, url):
    with pytest.raises(ConfigError) as error:
        run(smallest_experiment(), url)
    assert (error.value.field, error.value.value) == ("workdir", url)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["gs:/bucket/a", "gs://bucket/a", "simplecache::gs://bucket/a", "S3://bucket/a"])
def test_a_local_path_that_looks_like_a_url(machine, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for refused in (lambda: Directory(path), lambda: expanded(path, "workdir")):
        with pytest.raises(ConfigError) as error:
            refused()
        assert error.value.value == path
    assert expanded(f"./{path}") == Path(f"./{path}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("protocol", "extra"), [("gs", "gcs"), ("s3", "s3")])
def test_an_absent_extra_is_named(machine, monkeypatch, protocol, extra):
    def absent(protocol):
        raise ImportError(f"Install the package of {protocol}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", absent)
    with pytest.raises(RemoteError) as error:
        run(smallest_experiment(), f"{protocol}://bucket/a")
    assert f"jopt[{extra}]" in error.value.problem


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/../../x",
        "/etc/x",
        "a//b",
        "a/./b",
        "a\\..\\b",
        "a\nb",
        "",
        "x" * 2000,
        "a/" * 99 + "b",
        3,
        ".jopt/x",
    ],
)
def test_names_that_lead_out_of_a_directory(name):
    with pytest.raises(RemoteError):
        check_name(URL, name)


@pytest.mark.parametrize("name", ["../x", "checkpoints/../../x", "a\\b"])
def test_a_listing_with_such_a_name_writes_nothing(machine, tmp_path, name):
    Faulty.store[f"/bucket/runs/a/{name}"] = None
    machine("b")
    for use in (opened, local_copy):
        with pytest.raises(RemoteError) as error, use(URL):
            pass
        assert error.value.url == URL
    assert not [path for path in tmp_path.rglob("x")]


def commit(store, **changes):
    fields = {"format": 1, "content": "c", "owner": None, "host": "", "files": {}}
    store.put(".jopt/commits/00000001.json", json.dumps(seal(fields | changes)).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"../x": [1, None, 0, None]}},
        {"files": {"x": [-1, None, 0, None]}},
        {"files": {"x": [1, "00", 0, None]}},
        {"files": {"x": [1, None, 0, "../../other"]}},
        {"files": {"x": [1, None, 0]}},
        {"files": {"x": [1, None, 0, None], "x/y": [1, None, 0, None]}},
        {"files": []},
        {"format": 2},
        {"owner": 3},
    ],
)
def test_commits_that_jopt_would_not_write(machine, changes):
    store = Store(URL)
    store.put("x", b"1")
    commit(store, **changes)
    for use in (opened, local_copy):
        with pytest.raises(RemoteError), use(URL):
            pass


def test_objects_that_are_not_those_of_the_commit(machine):
    store = Store(URL)
    commit(store, files={"x": [1, "0" * 64, 0, None], "y": [1, None, 0, None]})
    for objects in ({}, {"x": b"2", "y": b"1"}):
        for name, content in objects.items():
            store.put(name, content)
        for use in (opened, local_copy):
            with pytest.raises(RemoteError, match="object"), use(URL):
                pass


def test_a_download_that_the_disk_has_no_room_for(machine):
    commit(Store(URL), files={"x": [2**60, None, 0, None]})
    with pytest.raises(RemoteError, match="room"), local_copy(URL):
        pass


def test_links_are_no_files(machine, tmp_path):
    remote = tmp_path / "remote"
    remote.mkdir()
    (remote / "x").symlink_to("/etc/hostname")
    with pytest.raises(RemoteError, match="link"), local_copy(f"file://{remote}"):
        pass
    with pytest.raises(LinkError):
        listed(remote)


def test_nothing_is_there(machine):
    with pytest.raises(RemoteError) as error, local_copy(URL):
        pass
    assert error.value.url == URL


def test_what_is_being_saved_or_removed_is_no_part_of_a_commit(tmp_path):
    for name in (f"40{_SAVING}", f"30{_REMOVED}", "20.orbax-checkpoint-tmp-1"):
        assert _LEFTOVER.fullmatch(name)
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "x").touch()
    (tmp_path / ".metrics.jsonl.0a1b2c3d.tmp").touch()
    (tmp_path / ".lock").touch()
    (tmp_path / "checkpoints" / "10").mkdir()
    (tmp_path / "checkpoints" / "10" / ".x").touch()
    assert listed(tmp_path).keys() == {"checkpoints/10/.x"}


class NoCredentialsError(Exception):
    """As botocore calls it."""


class HttpError(Exception):
    """As gcsfs has it where nobody is logged in."""

    code = 401


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (TimeoutError(), 3),
        (ConnectionError("reset"), 3),
        (PermissionError("denied"), 1),
        (OSError("Forbidden: b/bucket"), 1),
        (NoCredentialsError(), 1),
        (HttpError("Anonymous caller"), 1),
    ],
)
def test_a_store_that_fails_is_asked_again_and_the_files_are_kept(machine, monkeypatch, error, attempts):
    monkeypatch.setattr(stores, "PAUSES", (0.0, 0.0))
    asked = []

    def fail(self, path, *args, **kwargs):
        if path.endswith("/alive"):
            return
        asked.append(path)
        raise error

    with pytest.raises(RemoteError) as raised, opened(URL) as directory:
        (directory / "config.json").write_bytes(b"{}")
        monkeypatch.setattr(Faulty, "pipe_file", fail)
    assert len(asked) == attempts
    assert (raised.value.staging / "config.json").read_bytes() == b"{}"
    assert explain(error) in str(raised.value)
    monkeypatch.undo()


def test_a_bucket_that_does_not_exist(machine, monkeypatch):
    def fail(self, path, *args, **kwargs):
        raise FileNotFoundError("The specified bucket does not exist")

    monkeypatch.setattr(Faulty, "pipe_file", fail)
    with pytest.raises(RemoteError, match="does not exist") as error, opened(URL):
        pass
    assert error.value.url == URL


def test_no_home_directory(monkeypatch):
    monkeypatch.delenv("JOPT_STAGING_DIR", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConfigError) as error, opened(URL):
        pass
    assert error.value.field == "workdir"
