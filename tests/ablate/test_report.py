import html
import re
import shutil
import subprocess

import plotly.graph_objects as go
import pytest
from example_results import grid, optimizers_by_rate, sparsity_by_bits

from jopt.ablate import report
from jopt.ablate.report import report_parts, summary_table
from jopt.ablate.study import curve, study
from jopt.ablate.summary import summarize
from jopt.config import ConfigError
from jopt.measure import Column, columns_of
from jopt.report import Details, Figure, Table

pytestmark = pytest.mark.unoptimized

HOSTILE = "</script><img src=x onerror=alert(1)> $x_1$ | `a`"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--window-size=1400,2400", "--virtual-time-budget=5000", "--dump-dom",
]  # fmt: skip

# Chooses every entry of every menu, and says how many there were and what went wrong.
SCRIPT = """
<script>
window.onerror = (message) => { document.documentElement.dataset.error = message; };
setTimeout(async () => {
  let chosen = 0;
  for (const chart of document.querySelectorAll(".js-plotly-plot")) {
    for (const button of chart.layout.updatemenus?.[0]?.buttons ?? []) {
      await Plotly.update(chart, button.args[0], button.args[1]);
      chosen += 1;
    }
  }
  document.documentElement.dataset.chosen = chosen;
}, 1000);
</script>
"""


def write(directory, results, **changes):
    options = {
        "findings": ["6 trials & more."],
        "command": "jopt ablate --workdir='runs/<a>'",
        **changes,
    }
    return report.write(directory, results, summarize(results), **options)


def parts_of(results):
    return report_parts(results, summarize(results), [], [], "", [])


def figures_of(results):
    return {part.name: part for part in parts_of(results) if isinstance(part, Figure)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory, results = tmp_path_factory.mktemp("ablation"), sparsity_by_bits()
    plan = [Table("Groups", ("group", "trials"), "rr", [("0", "100")])]
    paths = write(directory, results, plan=plan, extra_tables=[Table("Best of each", ("bits",), "r", [("8",)])])
    return directory, results, paths


def test_the_files_of_a_report(written):
    directory, _, paths = written
    assert [p.name for p in paths] == ["report.html", "report.md"]
    assert sorted(p.name for p in directory.iterdir()) == sorted(p.name for p in paths)
    markdown = (directory / "report.md").read_text()
    names = ["tradeoff", "heat_map", "curves", "sensitivity", "differences"]
    assert re.findall(r"\(<report.html#(\w+)>\)", markdown) == names
    page = (directory / "report.html").read_text()
    assert re.findall(r'<figure id="(\w+)">', page) == names


def test_every_trial_has_its_command_in_both_reports(written):
    directory, results, _ = written
    page, markdown = (directory / "report.html").read_text(), (directory / "report.md").read_text()
    for row in results.trials:
        assert f"<code>{html.escape(row['command'])}</code>" in page
        assert row["trial"] in markdown and row["command"].replace("_", "\\_").replace("[", "\\[")[:60] in markdown
    details = [part for part in parts_of(results) if isinstance(part, Details)]
    assert len(details) == 20 and sum(len(part.parts[1].rows) for part in details) == 100
    assert details[1].parts[0].rows == [("stages[0].prune.sparsity", "0"), ("stages[0].quantize.bits", "4")]
    assert details[1].summary.startswith("target=0, bits=4: 9")


def test_every_mark_has_its_command(written):
    _, results, _ = written
    commands = {row["command"] for row in results.trials}
    for name in ("tradeoff", "sensitivity", "differences"):
        traces = figures_of(results)[name].traces
        marked = {command for t in traces if "customdata" in t for command in t["customdata"]}
        assert marked <= commands and len(marked) >= 19, name


def test_sentences_tables_and_command_are_there(written):
    directory = written[0]
    page, markdown = (directory / "report.html").read_text(), (directory / "report.md").read_text()
    assert "<li>6 trials &amp; more.</li>" in page and "\n- 6 trials & more.\n" in markdown
    assert "--workdir=&#x27;runs/&lt;a&gt;&#x27;" in page and "--workdir='runs/<a>'\n```" in markdown
    order = ["<li>6 trials", "<h2>Summary", "<h2>Best of each", 'id="tradeoff"', 'id="heat_map"', 'id="curves"',
             'id="sensitivity"', 'id="differences"', "<h2>How it was run", "<caption>Groups",
             "<h2>All 100 trials"]  # fmt: skip
    positions = [page.index(part) for part in order]
    assert positions == sorted(positions)


def test_no_mean_stands_without_its_interval():
    for results, missing in ((sparsity_by_bits(epochs=1), 0), (sparsity_by_bits(seeds=(0,), epochs=1), 20)):
        summary = summarize(results)
        table = summary_table(results, study(results, summary), summary)
        cells = [row[table.header.index("test accuracy")] for row in table.rows]
        assert sum(bool(re.fullmatch(r"[\d.]+% \[[\d.]+, [\d.]+\]", cell)) for cell in cells) == 20 - missing
        assert sum(cell.endswith("% (no interval)") for cell in cells) == missing
        assert [len(row) for row in table.rows] == [len(table.header)] * 20
    control = next(row for row in table.rows if row[:2] == ("0", "32"))
    assert control[table.header.index("verdict")] == "control"


def test_the_same_results_give_the_same_bytes(tmp_path):
    files = []
    for name in ("a", "b"):
        directory = tmp_path / name
        directory.mkdir()
        results = grid({"width": (8, 16), "act": ("relu", "tanh")}, {"width": 8, "act": "relu"})
        files.append([path.read_bytes() for path in write(directory, results)])
    assert files[0] == files[1]


@pytest.mark.parametrize(
    "results",
    [
        grid({"width": (8, 16, 32)}),
        grid({"act": ("relu", HOSTILE, "tanh"), "bias": (True, False), "clip": (None, 1.0)}, lost=(3,)),
        grid({"rate": (0.1, 0.2)}, {"rate": 0.1}, lost=(0, 1)),
        grid({"rate": (0.1, 0.2, 0.4)}, {"rate": 0.1}, seeds=(7,), metric="loss"),
        grid({"a": (1,)}, epochs=0),
    ],
    ids=["one axis", "strings and booleans", "all diverged", "one seed, a loss", "one point"],
)
def test_any_grid_is_drawn(results, tmp_path):
    write(tmp_path, results)
    text = (tmp_path / "report.html").read_text()
    assert HOSTILE not in text and "<img" not in text.partition("</script>")[2]
    assert "NaN" not in text.rpartition("</noscript>")[2]
    for figure in figures_of(results).values():
        # Plotly's own classes know each property and its values.
        go.Figure(figure.to_dict())
    markdown = (tmp_path / "report.md").read_text()
    tables = re.findall(r"(?:^\|.*\n?)+", markdown, re.M)
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1


def test_the_interval_beside_a_verdict_is_the_adjusted_one(written):
    _, results, _ = written
    summary = summarize(results)
    drawn = study(results, summary)
    table = summary_table(results, drawn, summary)
    column = table.header.index("difference to the control, adjusted interval")
    for row, cells in zip(summary, table.rows, strict=True):
        numbers = re.findall(r"[-+]?\d+\.\d+", cells[column])
        if row["verdict"] == "control":
            assert numbers == []
            continue
        low, high = (row[f"difference_{end}_adjusted"] for end in ("low", "high"))
        assert [float(v) for v in numbers[1:]] == pytest.approx([100 * low, 100 * high], abs=0.0051)
        assert (float(numbers[1]) < 0 < float(numbers[2])) == (row["verdict"] == "undecided")
    texts = {t for trace in figures_of(results)["differences"].traces for t in trace.get("hovertext", ())}
    for point, cells in zip(drawn.points, table.rows, strict=True):
        assert point.verdict == "control" or any(cells[column] in re.sub("<br>", " ", text) for text in texts)


def test_the_figures_hold_the_numbers(written):
    _, results, _ = written
    summary = summarize(results)
    drawn = figures_of(results)
    by_command = {results.at({n: row[n] for n in ("target", "bits")})[0]["command"]: row for row in summary}
    marks = [t for t in drawn["tradeoff"].traces if t["visible"] is True and "customdata" in t]
    points = {c: (x, y) for t in marks for c, x, y in zip(t["customdata"], t["x"], t["y"], strict=True)}
    assert points == {c: (row["theoretical_bytes_mean"], row["accuracy_mean"]) for c, row in by_command.items()}
    (cells, *_) = drawn["heat_map"].traces
    z = {c: value for texts, values in zip(cells["customdata"], cells["z"], strict=True)
         for c, value in zip(texts, values, strict=True)}  # fmt: skip
    assert z == {c: row["accuracy_mean"] for c, row in by_command.items()}
    differences = [t for t in drawn["differences"].traces if "customdata" in t]
    changes = {c: x for t in differences for c, x in zip(t["customdata"], t["x"], strict=True)}
    assert changes == {c: 100 * row["difference"] for c, row in by_command.items() if row["verdict"] != "control"}
    lines = [t for t in drawn["curves"].traces if t["visible"] is True and "customdata" in t]
    assert len(lines) == 20 and all(line["x"] == list(range(90, 901, 90)) for line in lines)


def test_a_column_from_outside_is_in_every_part_of_the_report(tmp_path):
    norm = Column("weights_norm", "norm of the weights", "", None, ".3f")
    results = grid({"width": (8, 16)}, {"width": 8})
    for i, row in enumerate(results.trials):
        row["weights_norm"] = float(i)
    results = results._replace(columns=columns_of("trial", [norm]))
    summary = summarize(results)
    assert [row["weights_norm_mean"] for row in summary] == [1.0, 4.0]
    table = summary_table(results, study(results, summary), summary)
    assert [row[table.header.index("norm of the weights")] for row in table.rows] == [
        "1.000 ± 1.000",
        "4.000 ± 1.000",
    ]
    write(tmp_path, results)
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert text.count("norm of the weights") == 3 and "5.000" in text


def test_names_of_points_differ_where_they_are_long():
    names = ("a_rather_long_name_of_an_axis", "another_rather_long_name", "rate")
    results = grid({names[0]: (1, 2), names[1]: (1, 2), names[2]: (0.1, 0.2)}, dict.fromkeys(names[:2], 1))
    texts = figures_of(results)["differences"].layout["yaxis"]["ticktext"]
    assert len(set(texts)) == len(texts) == 6 and "2, 1, 0.1" in texts


def test_points_that_lost_seeds_say_so():
    results = optimizers_by_rate(epochs=2)
    drawn = study(results, summarize(results))
    adam = {drawn.axes[1].values[p.at[1]]: p for p in drawn.points if drawn.axes[0].values[p.at[0]] == "adam"}
    assert (adam[0.1].diverged, adam[0.1].outcome) == (5, None)
    assert adam[0.03].diverged == 2 and adam[0.03].outcome is not None and "2 diverged" in adam[0.03].notes[0]
    assert [t.status for t in adam[0.03].trials] == ["finished", "diverged at step 37"] * 2 + ["finished"]
    # Two of five seeds left no curve that ends: the mean is of three from then on.
    assert adam[0.03].curves["validation"]["accuracy"].count == (5, 3)
    assert adam[0.03].curves["validation"]["loss"].count == (3, 3)


def test_curves_have_students_interval():
    means = curve({1: [0.5, 0.7, 0.9], 2: [0.5]}, confidence=0.9)
    # t(0.95, 2) = 2.91999, sd = 0.2.
    assert means.low == pytest.approx((0.7 - 2.919986 * 0.2 / 3**0.5, 0.5))
    assert means.high == pytest.approx((0.7 + 2.919986 * 0.2 / 3**0.5, 0.5))
    assert (means.count, means.least, means.most) == ((3, 1), (0.5, 0.5), (0.9, 0.5))


def test_a_summary_of_other_points_is_refused(tmp_path):
    results = grid({"width": (8, 16)})
    summary = summarize(results)
    for other, value, accepted in (
        (summary[:1], 1, " 2 points"),
        (summary[::-1], {"width": 16}, "{'width': 8}"),
    ):
        with pytest.raises(ConfigError) as caught:
            report.write(tmp_path, results, other, command="")
        assert (caught.value.field, caught.value.value) == ("summary", value)
        assert accepted in caught.value.accepted
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")
def test_the_page_works_in_a_browser(written, tmp_path):
    directory, results, _ = written
    page = tmp_path / "report.html"
    page.write_text((directory / "report.html").read_text() + SCRIPT)
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    root = re.search(r"<html[^>]*>", dom)[0]
    menus = [
        f.layout["updatemenus"][0]["buttons"] for f in figures_of(results).values() if "updatemenus" in f.layout
    ]
    assert "data-error" not in root and f'data-chosen="{sum(map(len, menus))}"' in root, root
    # Each of Plotly's plots has three layers.
    assert dom.count('class="main-svg"') == 3 * 5 and len(menus) == 3
