"""The parts of a report as a page and as Markdown: whole, escaped, and the same from the same parts."""

import html.parser
import json
import re

import pytest
from compressed import stages
from packed_files import lenet

from jopt import measure, report
from jopt.report import Code, Details, Figure, Findings, Heading, Table
from jopt.report.run_report import compression_parts, packed_parts, run_findings, run_parts

HOSTILE = "</script><img src=x onerror=alert(1)> | `a` _b_"
CONFIG = {"name": "digits_lenet", "optimizer": {"name": "adam", "note": "``` <b>"}}
MANIFEST = {
    "argv": ["python", "-m", "experiments.train", "--workdir=runs/a b"],
    "config": CONFIG,
    "versions": {"jax": "0.10.2"},
    "devices": ["cpu", "cpu"],
    "git": {"commit": "abc", "dirty": None},
}


class Checker(html.parser.HTMLParser):
    """Tags that are opened and closed in order, and every address that the page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.sources, self.cells = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [v for k, v in attrs if k in ("src", "href")]
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def outside_scripts(page):
    return re.sub(r"<script.*?</script>", "", page, flags=re.S)


def checked(page):
    checker = Checker()
    checker.feed(outside_scripts(page))
    assert not checker.open
    return checker


@pytest.mark.parametrize("kind", ["1 stage", "3 stages"])
def test_the_page_is_whole_in_itself(kind):
    outcomes, labels, flops = stages(kind)
    parts = compression_parts(outcomes, measure.stage_rows(outcomes, labels, flops), labels)
    page = report.to_html("digits <3>", [Heading("digits <3>", 1), *parts, *packed_parts("a.jopt", lenet())])
    checker = checked(page)
    assert "digits &lt;3&gt;" in page and {"stage", "dense"} <= set(checker.cells) and not checker.sources
    assert not re.search(r"https?:|@import|url\(|<link|<iframe", outside_scripts(page))
    drawn = [part for part in parts if isinstance(part, Figure)]
    # Plotly's script once, and one call for each figure.
    assert page.count("Plotly.newPlot(") - report.to_html("", drawn[:1]).count("Plotly.newPlot(") == len(drawn)
    assert page.count("plotly.js v") == 1
    assert all(f'<figure id="{figure.name}">' in page for figure in drawn)


def test_a_page_without_figures_has_no_script():
    assert "<script" not in report.to_html("a", [Heading("a", 1), "text"])


def test_what_anybody_may_have_written_is_text():
    figure = Figure("f", HOSTILE, HOSTILE, [{"type": "bar", "x": [1], "y": [2], "name": HOSTILE}], {})
    parts = [
        Heading(HOSTILE),
        Findings([HOSTILE]),
        Code(HOSTILE),
        HOSTILE,
        Table(HOSTILE, (HOSTILE,), "l", [(HOSTILE,)]),
    ]
    page = report.to_html(HOSTILE, [*parts, figure, Details(HOSTILE, parts)])
    assert "img" not in checked(page).tags and HOSTILE not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 15
    markdown = report.parts_markdown([HOSTILE, Findings([HOSTILE]), Table("", (HOSTILE,), "l", [(HOSTILE,)])])
    assert not re.search(r"(?<!\\)<img", markdown)


def test_the_same_parts_give_the_same_page():
    outcomes, labels, flops = stages("3 stages")
    rows = measure.stage_rows(outcomes, labels, flops)
    a, b = (report.to_html("a", compression_parts(outcomes, rows, labels)) for _ in range(2))
    assert a == b


def test_markdown_and_page_have_the_same_tables():
    for kind, tables in (("1 stage", 1), ("3 stages", 3)):
        outcomes, labels, flops = stages(kind)
        parts = compression_parts(outcomes, measure.stage_rows(outcomes, labels, flops), labels)
        markdown = report.parts_markdown(parts)
        assert markdown.count("\n| :---") == sum(isinstance(part, Table) for part in parts) == tables
        assert outside_scripts(report.to_html("", parts)).count("<table>") == tables
        assert markdown.startswith("## Compression\n\n| stage |")
        names = [part.name for part in parts if isinstance(part, Figure)]
        assert re.findall(r"\(<report.html#(\w+)>\)", markdown) == names


def test_a_compression_leaves_out_what_is_not_known():
    outcomes, labels, _ = stages("3 stages")
    bare = [o._replace(predictions=None, metrics={}, latent=None) for o in outcomes]
    parts = compression_parts(bare, measure.stage_rows(bare), labels)
    figures = {part.name: part for part in parts if isinstance(part, Figure)}
    assert set(figures) == {"compression", "sparsity", "weights"}
    assert len(figures["compression"].traces) == 2 and "Predictions" not in report.parts_markdown(parts)
    with pytest.raises(ValueError, match="at least one stage"):
        compression_parts([], [])


@pytest.fixture
def run_report(metric_rows):
    def make(config=CONFIG, manifest=MANIFEST, rows=None, result=None, **changes):
        rows = metric_rows() if rows is None else rows
        result = {"accuracy": 0.5, "loss": 1.0} if result is None else result
        return report.parts_markdown(run_parts(config, manifest, rows, result, **changes))

    return make


def test_the_command_can_be_pasted(run_report):
    assert "```sh\npython -m experiments.train '--workdir=runs/a b'\n```" in run_report()


def test_sections(run_report):
    text = run_report(model=report.model_table([]))
    heads = [line for line in text.splitlines() if line.startswith("#")]
    assert heads == [
        "# digits\\_lenet",
        *(f"## {x}" for x in ["Result", "Training", "Stages", "Model", "Environment", "Config"]),
    ]
    assert "| accuracy | 50.00% |" in text
    assert "[Learning curves](<report.html#learning_curves>)" in text
    assert "| versions.jax | 0.10.2 |" in text
    assert "| git.dirty | - |" in text


def test_a_report_begins_with_its_findings(run_report):
    rows = [
        {"stage": "dense", "accuracy": 0.98, "theoretical_bytes": 4096, "bytes": 5000, "sparsity": 0.0,
         "flops": 100},
        {"stage": "int4", "accuracy": 0.97, "accuracy_change": -0.01, "churn": 0.025, "theoretical_bytes": 512,
         "bytes": 1000, "sparsity": 0.75, "flops": 100, "effective_flops": 25},
    ]  # fmt: skip
    sentences = run_findings({"accuracy": 0.97, "loss": 0.125}, rows)
    assert sentences[:4] == [
        "The model reaches a test accuracy of 97.00% and a test loss of 0.125.",
        "From 'dense' to 'int4' the test accuracy changes by -1.00 pp; 2.50% of the test examples are predicted as "
        "another class.",
        "The packed file falls from 4.88 KiB to 1000 B, 5.0 times smaller.",
        "75.00% of the parameters are zero, which leaves 25.00% of the FLOPs (theoretical).",
    ]
    assert "one seed" in sentences[-1]
    text = run_report(stages=rows, result={"accuracy": 0.97, "loss": 0.125})
    assert text.startswith("# digits\\_lenet\n\n- The model reaches a test accuracy of 97.00%")
    assert run_findings({"accuracy": 0.5, "parameters": 10, "bytes": 40})[1] == "It has 10 parameters in 40 B."


def test_the_last_row_of_each_stage_and_split(run_report):
    lines = [line for line in run_report().splitlines() if line.startswith("| prune |")]
    assert len(lines) == 2 and lines[0].startswith("| prune | train | 5,000 |")


def test_the_config_survives_its_fence(run_report):
    body = run_report().split("````json\n")[1].split("\n````")[0]
    assert json.loads(body) == CONFIG


def test_an_empty_manifest_and_no_rows(run_report):
    text = run_report(config={}, manifest={}, rows=[])
    assert text.startswith("# Training run\n\n- The model reaches")
    assert "Environment" not in text and "## Stages" not in text
