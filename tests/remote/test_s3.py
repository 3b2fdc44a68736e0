"""A server that speaks S3's protocol, on this machine, and processes that are killed while they upload to it."""

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import smallest_experiment

from jopt import train
from jopt.remote import commits
from jopt.remote.errors import RemoteError
from jopt.remote.opening import opened
from jopt.remote.reading import local_copy
from jopt.remote.store import Store
from jopt.train.workdir import Workdir

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
pytest.importorskip("s3fs", reason="the extra s3 is not installed")
pytest.importorskip("moto.server", reason="moto[server], a server of S3's protocol, is not installed")

ROOT = Path(__file__).parents[2]
URL = "s3://bucket/runs/a"
KILLS = 12
CONFIG = """
from tests.tiny import smallest_experiment

def get_config():
    return smallest_experiment(epochs=40, checkpoint_every=1)
"""


@pytest.fixture(scope="module")
def server():
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    moto.start()
    variables = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield variables
    moto.stop()


def test_the_server_refuses_to_replace_what_must_be_new(server, machine):
    store = Store("s3://bucket/exclusive")
    assert store.create("x", b"1") and not store.create("x", b"2")
    assert store.read("x") == b"1"
    assert store.read("y") is None and store.sizes() == {"x": 1}


def test_a_large_file_is_sent_from_the_disk(server, machine):
    content = random.Random(0).randbytes(70 * 2**20)
    with opened("s3://bucket/large") as directory:
        (directory / "arrays").write_bytes(content)
    with local_copy("s3://bucket/large") as copy:
        assert (copy / "arrays").read_bytes() == content


def test_killed_processes_go_on_on_other_machines(server, machine, tmp_path, request):
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    expected = train.run(smallest_experiment(epochs=40, checkpoint_every=1), tmp_path / "local")
    chance, reached = random.Random(1), []
    environment = {**os.environ, **server, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    # So that nobody waits 45 seconds for a process that was killed here.
    program = (
        "from jopt.remote import lease; lease.PERIOD, lease.PATIENCE = 0.1, 0.5; "
        "from jopt.apps.commands import main; main()"
    )
    for launch in range(KILLS + 1):
        environment["JOPT_STAGING_DIR"] = str(tmp_path / "machines" / str(launch))
        command = [sys.executable, "-c", program, "train", f"--config={config}", f"--workdir={URL}", "--quiet"]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        number = commits.latest(Store(URL)).number
        if launch < KILLS:
            # Some of its uploads are done then, and one is under way.
            while process.poll() is None and commits.latest(Store(URL)).number < number + 2:
                time.sleep(0.01)
            time.sleep(chance.random() / 2)
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, errors
        with local_copy(URL) as copy:
            steps = train.checkpoint.steps_in(copy / "checkpoints")
            reached.append(steps[-1] if steps else 0)
    print("steps at the kills:", reached)
    assert reached == sorted(reached) and len(set(reached)) > 3
    with local_copy(URL) as copy:
        assert Workdir(copy).load_result()["digest"] == expected["digest"]
    assert commits.latest(Store(URL)).owner is None


def test_a_bucket_that_does_not_exist(server, machine):
    with pytest.raises(RemoteError, match="does not exist"), opened("s3://nobody-has-this/a"):
        pass


def test_no_credentials(server, machine, monkeypatch):
    import s3fs

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RemoteError, match="credentials"), opened("s3://bucket/b"):
        pass
    s3fs.S3FileSystem.clear_instance_cache()
