"""Where jopt runs, where its files lie by default, and `~` in paths."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jopt import data
from jopt.config import ConfigError
from jopt.paths import cache, expanded
from jopt.train import enable_cache
from jopt.train.workdir import Workdir


def test_windows_is_refused_at_import_in_one_line_that_says_what_to_do():
    code = "import sys; sys.platform = 'win32'; sys.modules['fcntl'] = None; import jopt.codec"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: ") and "WSL" in last and "fcntl" not in last


def test_a_notebook_has_a_compilation_cache_unless_jax_was_told_otherwise(tmp_path):
    """In a process of its own: the tests have a cache, and JAX's options are global."""
    code = """
import jax, sys
from jopt.train.compiler import enable_cache_in_notebook

def cache(kernel, **options):
    sys.modules.pop("ipykernel", None)
    sys.modules |= {"ipykernel": jax} if kernel else {}
    for name, value in {"dir": None, **options}.items():
        jax.config.update(f"jax_compilation_cache_{name}" if name == "dir" else name, value)
    enable_cache_in_notebook()
    return jax.config.jax_compilation_cache_dir

print(cache(False), cache(True), cache(True, dir="mine"), cache(True, jax_enable_compilation_cache=False))
"""
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | {"HOME": str(tmp_path)}
    env.pop("XDG_CACHE_HOME", None)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", str(tmp_path / ".cache" / "jopt" / "xla"), "mine", "None"]


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """A user whom the system does not know, as in a container that was started with any number."""
    for name in ("HOME", "JOPT_DATA_DIR", "TFDS_DATA_DIR", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 12_345_678)


def test_a_user_without_a_home_names_directories_or_does_without_a_cache(tmp_path, homeless):
    before = jax.config.jax_compilation_cache_dir
    assert cache("xla") is None and enable_cache() is None
    assert jax.config.jax_compilation_cache_dir == before
    with pytest.raises(ConfigError) as refused:
        data.directory()
    assert refused.value.field == "data.data_dir"
    with pytest.raises(ConfigError) as refused:
        Workdir("~/runs")
    assert (refused.value.field, refused.value.value) == ("workdir", "~/runs")
    assert data.directory(str(tmp_path)) == tmp_path


def test_a_tilde_is_a_home_directory_wherever_a_path_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~") == Workdir("~").path == tmp_path
    assert Workdir("~/a").path == data.directory("~/a") == tmp_path / "a"
    assert expanded(expanded("./~")) == Path.cwd() / "~"
    with pytest.raises(ConfigError):
        expanded("~no_such_user_of_this_machine/a")


def test_a_workdir_is_utf_8():
    with pytest.raises(ConfigError) as refused:
        Workdir(os.fsdecode(b"/tmp/\xff"))
    assert refused.value.field == "workdir"
