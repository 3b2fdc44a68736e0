"""What the documents say can be run does run, and what they name is there."""

import dataclasses
import importlib
import importlib.util
import re
from pathlib import Path

import jax
import pytest

from jopt import codec, hyper, quantize
from jopt.ablate import checks
from jopt.ablate.trials import groups, trials
from jopt.address import get
from jopt.apps.commands import COMMANDS
from jopt.apps.config_flag import overridden
from jopt.config import from_dict, to_dict
from jopt.train import Experiment, Stage, validate
from jopt.train.plan import applied_methods

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {path.name: path.read_text() for path in DOCUMENTS}


def blocks(name):
    """The Python examples of a document."""
    return re.findall(r"```python\n(.*?)```", TEXT[name], re.DOTALL)


def test_the_readme_example_runs_as_printed():
    block = blocks("README.md")[1]
    assert len([line for line in block.splitlines() if line.strip()]) <= 18
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as in a reader's session
        space: dict = {}
        exec(compile(block, "README.md", "exec"), space)
    # The file is that of the Specs, which nobody gave it.
    seen = space["see"].apply(space["state"], space["params"])
    expected = codec.encode(seen, specs={path: quantize.Spec(4) for path in seen})
    assert space["packed"].data == expected.data
    assert sum("4-bit integers" in row.encoding for row in expected.ledger.entries) == 2


@pytest.mark.parametrize("name", ["README.md", "ablations.md"])
def test_the_grids_that_are_printed_can_be_run(name):
    space: dict = {}
    exec(compile(blocks(name)[0], name, "exec"), space)
    grid = space["get_config"]()
    assert len(checks.validate(grid)) == len(grid.space) * len(grid.seeds) > 1
    assert len(groups(trials(grid))) == 1


def test_the_config_that_is_printed_takes_the_flags_that_are_printed():
    example, order, _ = blocks("configs.md")
    space: dict = {}
    exec(compile(example + order, "configs.md", "exec"), space)
    config = space["get_config"]()
    command = re.search(r"--config=my_config.*?\n\n", TEXT["configs.md"], re.DOTALL)
    assert command is not None
    flags = dict(re.findall(r"--config\.(\S+?)=(\S+)", command[0]))
    changed = overridden(config, flags)
    assert len(flags) == 4
    assert (get(changed, "stages[1].prune.sparsity"), get(changed, "stages[1].quantize.bits")) == (0.95, 8)
    acting = [[a.method.name for a in applied_methods(c, 2)] for c in (config, space["config"])]
    assert acting == [["prune"], ["quantize", "prune"]]
    for each in (config, changed, space["config"], overridden(config, {"pruned.prune": "None"})):
        validate(each)


def own_methods(document, directory, monkeypatch):
    """The module that a document's last example is, where a config can name its classes."""
    name = f"methods_of_{document.partition('.')[0].lower()}"
    (directory / f"{name}.py").write_text(blocks(document)[2])
    monkeypatch.syspath_prepend(directory)
    return importlib.import_module(name)


def assert_method(method, field, text):
    """It stands in a config, which survives JSON, and its number is traced and a flag."""
    config = Experiment(stages=[Stage("train", methods=(method,))])
    validate(config)
    assert f"stages[0].{method.name}.{field}" in hyper.split(config)[1]
    assert from_dict(Experiment, to_dict(config), trusted=True) == config
    assert get(overridden(config, {f"{method.name}.{field}": text}), field) == float(text)


def test_the_method_of_the_configs_page_is_one(tmp_path, monkeypatch):
    method = own_methods("configs.md", tmp_path, monkeypatch).Rounded(0.5)
    assert_method(method, "step", "0.125")
    seen = method.build().apply((), {"w": jax.numpy.array([0.3, 0.9])})
    assert seen["w"].tolist() == [0.5, 1.0]


def test_the_method_of_the_readme_is_one(tmp_path, monkeypatch):
    method = own_methods("README.md", tmp_path, monkeypatch).MaxNorm(2.0)
    assert_method(method, "limit", "1.5")
    params = {"bias": jax.numpy.array([9.0]), "kernel": jax.numpy.array([[3.0, 4.0]])}
    constrained = method.build().constrain((), params)
    assert constrained["bias"].tolist() == [9.0]
    assert constrained["kernel"].tolist() == [[pytest.approx(1.2), pytest.approx(1.6)]]


def test_the_distillation_that_is_printed_is_valid():
    stage, loop, method, _ = blocks("distillation.md")
    student, teacher = jax.numpy.zeros((2, 3)), jax.numpy.ones((2, 3))
    space: dict = {"student_logits": student, "teacher_logits": teacher, "hard_losses": student[:, 0]}
    space |= {"dataclasses": dataclasses, "jax": jax, "jnp": jax.numpy}
    exec(compile(stage + loop + method, "distillation.md", "exec"), space)
    space["stage"].methods[0].validate()
    assert float(space["parts"]["soft"]) == float(space["LogitL1"]("runs/big").soft_loss(student, teacher)) == 1.0


@pytest.mark.parametrize("name", TEXT)
def test_files_that_are_named_are_there(name):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT[name]):
        assert (ROOT / ("docs" if name != "README.md" else "") / target).exists(), target
    for path in re.findall(r"`((?:tests|jopt|configs|experiments)/[\w./]+\.py)", TEXT[name]):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", TEXT)
def test_configs_and_apps_in_commands_are_there(name):
    for path in re.findall(r"--config=(configs/[\w/]+\.py)", TEXT[name]):
        assert (ROOT / path).exists(), path
    for module in re.findall(r"python -m ((?:experiments|jopt)[\w.]*)", TEXT[name]):
        assert importlib.util.find_spec(module), module
    for command in re.findall(r"(?:^    |`)jopt ([a-z]+) (?:-|[A-Z]|runs)", TEXT[name], re.MULTILINE):
        assert command in COMMANDS, command


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_each_config_is_valid_and_tells_its_command(path):
    module = importlib.import_module(f"configs.{path.stem}")
    config = module.get_config()
    assert isinstance(config, Experiment)
    validate(config)
    assert f"--config=configs/{path.name}" in module.__doc__
    assert re.search(r"Time: .*\d|Not run here: needs the data set", module.__doc__), "time and result"


def test_the_make_targets_of_the_readme_are_there():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:    |`)make ([\w-]+)", TEXT["README.md"])) <= set(targets)


def test_no_document_names_a_package_index():
    for name, text in TEXT.items():
        assert not re.search(r"pypi\.org|files\.pythonhosted", text), name
    assert "://" not in (ROOT / "constraints.txt").read_text()
