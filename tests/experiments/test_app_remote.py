"""The commands with URLs in the place of directories."""

import pytest


@pytest.fixture(scope="module")
def remote(forked, config, tmp_path_factory):
    """A finished run behind a URL, and the folder that the URL stands for."""
    store = tmp_path_factory.mktemp("store") / "runs" / "a"
    done = forked("train", f"--config={config}", f"--workdir=file://{store}", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return f"file://{store}", store


def test_a_run_behind_a_url_is_a_run(forked, remote, tmp_path):
    url, store = remote
    for name, args in [
        ("inspect", [url, "--json"]),
        ("inspect", [f"{url}/model.jopt", "--json"]),
        ("predict", [url]),
        ("compare", [url, url, f"--out={tmp_path}"]),
        ("verify", [url, "--quiet"]),
        ("export", [url, "--format=packed"]),
    ]:
        done = forked(name, *args)
        assert done.returncode == 0, (name, done.stderr)
    assert (store / "export" / "model.jopt").read_bytes() == (store / "model.jopt").read_bytes()


@pytest.mark.parametrize(
    ("name", "args", "status"),
    [
        ("train", ["--workdir=gs:/bucket/a"], 2),
        ("train", ["--workdir=nosuch://bucket/a"], 2),
        ("train", ["--workdir=file:///a/../b"], 2),
        ("train", ["--workdir=runs/a", "--profile=gs://bucket/trace"], 2),
        ("inspect", ["file:///nothing/is/there"], 1),
        ("verify", ["file:///nothing/is/there"], 1),
    ],
)
def test_what_is_no_directory(forked, refused, config, name, args, status):
    refused(forked(name, *([f"--config={config}"] if name == "train" else []), *args), status)
