import json

import pytest

from jopt.report import model_table, report_markdown

CONFIG = {"name": "digits_lenet", "optimizer": {"name": "adam", "note": "``` <b>"}}
MANIFEST = {
    "argv": ["python", "-m", "experiments.train", "--workdir=runs/a b"],
    "config": CONFIG,
    "versions": {"jax": "0.10.2"},
    "devices": ["cpu", "cpu"],
    "git": {"commit": "abc", "dirty": None},
}


@pytest.fixture
def report(metric_rows):
    def make(**changes):
        values = {
            "config": CONFIG,
            "manifest": MANIFEST,
            "rows": metric_rows(),
            "result": {"accuracy": 0.5},
            "figures": {"Learning curves": "learning_curves.png"},
        }
        return report_markdown(**{**values, **changes})

    return make


def test_the_command_can_be_pasted(report):
    assert "```sh\npython -m experiments.train '--workdir=runs/a b'\n```" in report()


def test_sections(report):
    text = report(model=model_table([]))
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == [
        "# digits\\_lenet",
        *(f"## {x}" for x in ["Result", "Stages", "Model", "Environment", "Config"]),
    ]
    assert "| accuracy | 50.00% |" in text
    assert "![Learning curves](<learning_curves.png>)" in text
    assert "| versions.jax | 0.10.2 |" in text
    assert "| git.dirty | - |" in text


def test_the_last_row_of_each_stage_and_split(report):
    lines = [line for line in report().splitlines() if line.startswith("| prune |")]
    assert len(lines) == 2 and lines[0].startswith("| prune | train | 5,000 |")


def test_the_config_survives_its_fence(report):
    text = report()
    body = text.split("````json\n")[1].split("\n````")[0]
    assert json.loads(body) == CONFIG


def test_an_empty_manifest_and_no_rows(report):
    text = report(config={}, manifest={}, rows=[], figures={})
    assert text.startswith("# Training run\n\n## Result")
    assert "Environment" not in text and "Stages" not in text
