"""The projects in examples/: each trains, packs and is read back, and holds no more code than its README says."""

import ast
import importlib
import math
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import jax
import pytest

from jopt import address
from jopt.ablate import checks
from jopt.apps.config_flag import load, overridden
from jopt.train import packed, run

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/config.py"))
# Lines that she may have to write, of what jopt asks for. A model has no bound: it is her own.
MOST_LINES = {"data.py": 10, "task.py": 15}
# Flags of a short run, where fewer steps are not enough: the order of a million examples takes seconds.
QUICK: dict[str, dict[str, str]] = {
    "byte_decoder": {
        "model.depth": "1",
        "model.width": "16",
        "data.files": f"{sysconfig.get_paths()['stdlib']}/asyncio/base_*.py",
    },
    "nnx_vit": {"model.options.depth": "1", "optimizer.warmup_steps": "0"},
    "ten_gigabyte_stream": {"data.options.examples": "4096"},
}
STEPS = 4
# More than ten seconds of a processor: attention compiles long, and a checkpoint must be trained first.
HEAVY = {"byte_decoder", "equinox", "image_folder", "nnx_vit", "torch_checkpoint"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The directory where the first test of an example leaves it, with the files that its scripts make."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.slow) if n in HEAVY else n for n in NAMES])
def project(request, tmp_path, made, monkeypatch):
    """A copy of an example, as its user has it: the current directory, which modules are looked up in."""
    path, source = tmp_path / request.param, made / request.param
    is_made = source.exists()
    shutil.copytree(source if is_made else EXAMPLES / request.param, path)
    monkeypatch.chdir(path)
    # Several examples have a module of one name.
    monkeypatch.setattr(sys, "path", [str(path), *sys.path])
    # Other tests may have imported a `config` of theirs.
    for file in path.glob("*.py"):
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
    before = dict(sys.modules)
    importlib.invalidate_caches()
    try:
        # With the options of JAX that she has, who did not set any.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            if not is_made:
                for script in sorted(path.glob("make_*.py")):
                    runpy.run_path(str(script), run_name="__main__")
                shutil.copytree(path, source)
            yield path
    finally:
        for name in sys.modules.keys() - before.keys():
            if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(path):
                del sys.modules[name]


def shortened(config, name):
    """The experiment with a few steps in each stage that trains."""
    config = overridden(config, QUICK.get(name, {}))
    config.segment_steps = None
    for stage in config.stages:
        stage.epochs, stage.steps, stage.segment_steps = None, 0 if stage.steps == 0 else STEPS, 2
    return config


@pytest.mark.unoptimized
def test_each_example_trains_and_its_packed_file_is_the_model(project):
    config = shortened(load("config.py"), project.name)
    result = run(config, "runs/short")
    metric = config.task.resolved().deciding
    assert math.isfinite(result[metric.key]) and len(result["stages"]) == len(config.stages)
    model = packed.load("runs/short/model.jopt", trusted=True)
    assert model.task.resolved().deciding.key == metric.key and model.ledger.total == result["bytes"]


@pytest.mark.parametrize("project", [n for n in NAMES if (EXAMPLES / n / "ablation.py").exists()], indirect=True)
def test_each_grid_has_four_trials_that_can_be_run(project):
    grid = load("ablation.py")
    experiments = [trial.config for trial in checks.validate(grid)]
    assert len(experiments) == 4
    for field in (field for point in grid.space.points for field in point.fields):
        assert len({str(address.get(experiment, field)) for experiment in experiments}) > 1


def lines_of_code(path: Path) -> int:
    """Lines that hold code: no docstring, no comment, nothing empty, no import."""
    tree = ast.parse(path.read_text())
    lines: set[int] = set()
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.expr | ast.stmt):
            lines |= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, ast.Expr) and docstring):
            skipped |= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    text = path.read_text().splitlines()
    return len({n for n in lines - skipped if text[n - 1].split("#")[0].strip()})


@pytest.mark.parametrize("name", NAMES)
def test_she_wrote_no_more_than_promised(name):
    for file, most in MOST_LINES.items():
        if (path := EXAMPLES / name / file).exists():
            assert 0 < lines_of_code(path) <= most, path
    table = re.findall(r"\| `(\w+\.py)` \|[^|]*\| (\d+) \|", (EXAMPLES / name / "README.md").read_text())
    assert table and {file: int(lines) for file, lines in table} == {
        file: lines_of_code(EXAMPLES / name / file) for file, _ in table
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_walk_from_the_wheel(name, tmp_path_factory):
    directory = tmp_path_factory.getbasetemp() / "walk"
    script = str(EXAMPLES / "walk.sh")
    done = subprocess.run([script, name, str(directory)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit for bit" in done.stdout
