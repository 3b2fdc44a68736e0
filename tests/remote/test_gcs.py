"""A server that speaks the protocol of Google's storage, on this machine; it does not refuse to replace objects."""

import logging
import socket

import pytest
from tiny import smallest_experiment

from jopt import train
from jopt.remote.errors import RemoteError
from jopt.remote.opening import opened
from jopt.remote.reading import local_copy
from jopt.remote.store import Store
from jopt.train.workdir import Workdir

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
pytest.importorskip("gcsfs", reason="the extra gcs is not installed")
pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")


@pytest.fixture(scope="module")
def server():
    import gcsfs
    from gcp_storage_emulator.server import create_server

    logging.getLogger("gcsfs").setLevel(logging.ERROR)
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    emulator = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    emulator.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GOOGLE_CLOUD_PROJECT", "project")
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield
    emulator.stop()


def test_a_run_goes_on_on_another_machine(server, machine, tmp_path, caplog):
    config, url = smallest_experiment(epochs=3, checkpoint_every=1), "gs://bucket/runs/a"
    expected = train.run(config, tmp_path / "local")["digest"]
    with pytest.raises(train.StopRequested):
        train.run(config, url, should_stop=lambda rows: bool(rows))
    # This server ignores ifGenerationMatch.
    assert "does not refuse" in caplog.text
    machine("b")
    assert train.run(config, url)["digest"] == expected
    with local_copy(url) as copy:
        assert Workdir(copy).load_result()["digest"] == expected


def test_objects(server, machine):
    store = Store("gs://bucket/objects")
    store.create("a/x", b"1")
    store.put("a/x", b"2")
    assert store.read("a/x") == b"2" and store.read("a/y") is None and store.sizes() == {"a/x": 1}
    store.remove(["a/x", "a/y"])
    assert store.sizes() == {}


def test_a_bucket_that_does_not_exist(server, machine):
    with pytest.raises(RemoteError, match="does not exist"), opened("gs://nobody-has-this/a"):
        pass
