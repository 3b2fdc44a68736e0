import html
import json
import re
import shutil
import subprocess

import pytest
from example_results import grid, optimizers_by_rate, sparsity_by_bits
from jopt.ablate.figures import pictures
from jopt.report.canvas import PALETTE
from PIL import Image, ImageColor

from jopt.ablate import report
from jopt.ablate.report import summary_table
from jopt.ablate.study import curve, study
from jopt.ablate.summary import summarize
from jopt.config import ConfigError
from jopt.report import Table

pytestmark = pytest.mark.unoptimized

HOSTILE = "</script><img src=x onerror=alert(1)> $x_1$ | `a`"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--window-size=1400,2400", "--virtual-time-budget=5000", "--dump-dom",
]  # fmt: skip

# Chooses every value of every choice, sorts by the accuracy, and says which row then stands first.
SCRIPT = """
<script>
setTimeout(() => {
  const all = [...document.querySelectorAll("select")].map((select) => [
    select.closest(".plot").id, select.name, [...select.options].map((option) => option.value)]);
  let changed = 0;
  for (const [id, name, values] of all) {
    for (const value of values) {
      const own = document.querySelector(`#${id} select[name="${name}"]`);
      own.value = value;
      own.dispatchEvent(new Event("change"));
      changed += 1;
    }
  }
  const heads = document.querySelectorAll("table.sortable th");
  heads[3].querySelector("button").click();
  const cells = document.querySelector("table.sortable tbody tr").cells;
  const first = `${cells[0].textContent},${cells[1].textContent}`;
  Object.assign(document.documentElement.dataset, { changed, first });
}, 1000);
</script>
"""


def write(directory, results, **changes):
    own = {
        "sentences": ["6 trials & more."],
        "command": "python -m experiments.ablate --workdir='runs/<a>'",
        **changes,
    }
    return report.write(directory, results, summarize(results), **own)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory, results = tmp_path_factory.mktemp("ablation"), sparsity_by_bits()
    plan = [Table("Groups", ("group", "trials"), "rr", [("0", "100")])]
    paths = write(directory, results, plan=plan, extra_tables=[Table("Best of each", ("bits",), "r", [("8",)])])
    return directory, results, paths


def test_the_files_of_a_report(written):
    directory, _, paths = written
    names = ["report.html", "report.md", "accuracy_against_size.png", "heat_map.png", "learning_curves.png",
             "sensitivity.png", "differences.png"]  # fmt: skip
    assert [p.name for p in paths] == names
    assert sorted(p.name for p in directory.iterdir()) == sorted(names)
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in paths[2:])
    markdown = (directory / "report.md").read_text()
    assert re.findall(r"\]\(<(.*?)>\)", markdown) == names[2:]


def test_every_trial_has_its_command_in_both_reports(written):
    directory, results, _ = written
    page, markdown = (directory / "report.html").read_text(), (directory / "report.md").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    assert sum(len(point["trials"]) for point in data["points"]) == 100
    in_data = {trial["id"]: trial["command"] for point in data["points"] for trial in point["trials"]}
    for row in results.trials:
        assert in_data[row["trial"]] == row["command"]
        assert f"<code>{html.escape(row['command'])}</code>" in page
        assert row["trial"] in markdown
    settings = dict(data["points"][1]["settings"])
    assert settings == {"stages[0].prune.sparsity": "0", "stages[0].quantize.bits": "4"}


def test_sentences_tables_and_command_are_there(written):
    directory = written[0]
    page, markdown = (directory / "report.html").read_text(), (directory / "report.md").read_text()
    assert "<p>6 trials &amp; more.</p>" in page and "6 trials & more." in markdown
    assert "--workdir=&#x27;runs/&lt;a&gt;&#x27;" in page and "--workdir='runs/<a>'\n```" in markdown
    order = ["<h2>Summary", "<h2>Best of each", 'id="tradeoff"', 'id="heat"', 'id="curves"', 'id="sensitivity"',
             'id="forest"', "<h2>How it was run", "<caption>Groups", "<h2>All 100 trials"]  # fmt: skip
    places = [page.index(part) for part in order]
    assert places == sorted(places)


def test_no_mean_stands_without_its_interval():
    for results, missing in ((sparsity_by_bits(epochs=1), 0), (sparsity_by_bits(seeds=(0,), epochs=1), 20)):
        summary = summarize(results)
        table, keys = summary_table(study(results, summary), summary)
        cells = [row[table.header.index("test accuracy")] for row in table.rows]
        assert sum(bool(re.fullmatch(r"[\d.]+% \[[\d.]+, [\d.]+\]", cell)) for cell in cells) == 20 - missing
        assert sum(cell.endswith("% (no interval)") for cell in cells) == missing
        assert [len(row) for row in keys] == [len(table.header)] * 20
    control = next(row for row in table.rows if row[:2] == ("0", "32"))
    assert control[table.header.index("verdict")] == "control"


def test_the_same_results_give_the_same_bytes(tmp_path):
    found = []
    for name in ("a", "b"):
        directory = tmp_path / name
        directory.mkdir()
        results = grid({"width": (8, 16), "act": ("relu", "tanh")}, {"width": 8, "act": "relu"})
        found.append([path.read_bytes() for path in write(directory, results)])
    assert found[0] == found[1]


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
    assert HOSTILE not in text and "NaN" not in re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    markdown = (tmp_path / "report.md").read_text()
    columns = [line.replace("\\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")]
    assert len(set(columns)) == 2, "the summary's columns and the trials'"


def test_the_interval_beside_a_verdict_is_the_adjusted_one(written):
    directory, results, _ = written
    summary = summarize(results)
    table, _ = summary_table(study(results, summary), summary)
    place = table.header.index("difference to the control, adjusted interval")
    for row, cells in zip(summary, table.rows, strict=True):
        found = re.findall(r"[-+]?\d+\.\d+", cells[place])
        if row["verdict"] == "control":
            assert found == []
            continue
        low, high = (row[f"difference_{end}_adjusted"] for end in ("low", "high"))
        assert [float(v) for v in found[1:]] == pytest.approx([100 * low, 100 * high], abs=0.0051)
        assert (float(found[1]) < 0 < float(found[2])) == (row["verdict"] == "undecided")
    page = (directory / "report.html").read_text()
    changes = [p["change"] for p in json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])["points"]]
    assert changes == [cells[place].replace("-", "", cells[place] == "-") for cells in table.rows]


def test_pictures_are_small_and_lines_keep_their_colors(written):
    paths = written[2]
    for path in paths[2:]:
        with Image.open(path) as image:
            assert image.mode == "P" and path.stat().st_size < 80_000
            colors = dict((c, n) for n, c in image.convert("RGB").getcolors(10**7))
        assert max(colors, key=colors.get) == (255, 255, 255) or path.name == "heat_map.png"
        if path.name == "learning_curves.png":
            assert all(colors.get(ImageColor.getrgb(color), 0) > 20 for color in PALETTE)


def test_a_picture_of_an_earlier_report_does_not_stay(tmp_path):
    (tmp_path / "accuracy_against_size.png").write_bytes(b"old")
    paths = write(tmp_path, optimizers_by_rate(rates=(1e-3, 3e-3), seeds=(0, 1), epochs=1))
    assert tmp_path / "accuracy_against_size.png" not in paths
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_pictures_are_drawn_within_a_fraction_and_name_their_slice():
    results = grid({"rate": (0.1, 0.2), "act": ("a", "b"), "bias": (True, False)}, {"rate": 0.1}, seeds=(0, 1))
    for row in results.trials:
        row["accuracy"] = 0.9 if row["seed"] else 1.0
    drawn = pictures(study(results, summarize(results)))
    caption, figure = drawn["sensitivity.png"]
    assert figure.get_suptitle() == "at bias=true" and ", at bias=true:" in caption
    # The interval of 0.9 and 1 reaches from 0.31 to 1.59.
    tops = [c.get_paths()[0].vertices[:, 1].max() for c in figure.axes[0].collections]
    assert tops == [1.0, 1.0]
    bars = drawn["accuracy_against_size.png"][1].axes[0].collections
    ends = [segment[:, 1] for bar in bars for segment in bar.get_segments()]
    assert ends and all(end.max() == pytest.approx(1.0) and end.min() > 0.3 for end in ends)


def test_names_of_points_are_told_apart_where_they_are_long():
    names = ("a_rather_long_name_of_an_axis", "another_rather_long_name", "rate")
    results = grid({names[0]: (1, 2), names[1]: (1, 2), names[2]: (0.1, 0.2)}, dict.fromkeys(names[:2], 1))
    drawn = pictures(study(results, summarize(results)))
    texts = [t.get_text() for t in drawn["differences.png"][1].axes[0].get_yticklabels()]
    assert len(set(texts)) == len(texts) == 6 and "2, 1, 0.1" in texts


def test_points_that_lost_seeds_say_so():
    results = optimizers_by_rate(epochs=2)
    own = study(results, summarize(results))
    adam = {own.axes[1].values[p.at[1]]: p for p in own.points if own.axes[0].values[p.at[0]] == "adam"}
    assert (adam[0.1].diverged, adam[0.1].outcome) == (5, None)
    assert adam[0.03].diverged == 2 and adam[0.03].outcome is not None and "2 diverged" in adam[0.03].notes[0]
    assert [t.status for t in adam[0.03].trials] == ["finished", "diverged at step 37"] * 2 + ["finished"]
    # Two of five seeds left no curve that ends: the mean is of three from then on.
    assert adam[0.03].curves["validation"]["accuracy"].count == (5, 3)
    assert adam[0.03].curves["validation"]["loss"].count == (3, 3)


def test_curves_have_students_interval():
    own = curve({1: [0.5, 0.7, 0.9], 2: [0.5]}, confidence=0.9)
    # t(0.95, 2) = 2.91999, sd = 0.2.
    assert own.low == pytest.approx((0.7 - 2.919986 * 0.2 / 3**0.5, 0.5))
    assert own.high == pytest.approx((0.7 + 2.919986 * 0.2 / 3**0.5, 0.5))
    assert (own.count, own.least, own.most) == ((3, 1), (0.5, 0.5), (0.9, 0.5))


def test_a_summary_of_other_points_is_refused(tmp_path):
    results = grid({"width": (8, 16)})
    summary = summarize(results)
    with pytest.raises(ConfigError, match="summary must be one row for each of the 2 points, got 1"):
        report.write(tmp_path, results, summary[:1], command="")
    with pytest.raises(ConfigError, match="in the order of the grid's points"):
        report.write(tmp_path, results, summary[::-1], command="")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")
def test_the_page_works_in_a_browser(written, tmp_path):
    directory, results, _ = written
    page = tmp_path / "report.html"
    page.write_text((directory / "report.html").read_text() + SCRIPT)
    trial = results.trials[37]
    address = f"{page.as_uri()}#trial={trial['trial']}"
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", address]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    root = re.search(r"<html[^>]*>", dom)[0]
    assert 'data-ready="true"' in root and "data-error" not in root, root
    assert int(re.search(r'data-changed="(\d+)"', root)[1]) == 17
    # Each of Plotly's plots has three layers.
    assert dom.count('class="main-svg"') == 3 * 5 and dom.count('class="chart js-plotly-plot"') == 5
    details = re.search(r"<aside.*?</aside>", dom, re.S)[0]
    label = f"target={trial['target']:g}, bits={trial['bits']}"
    assert f"<h2>{label}</h2>" in details
    chosen = re.search(r'<div class="trial chosen".*?</div></div>', details, re.S)[0]
    assert html.escape(trial["command"], quote=False) in chosen and f"seed {trial['seed']}" in chosen
    assert details.count("data-trial") == 5 and "stages[0].prune.sparsity" in details
    worst = min(summarize(results), key=lambda row: row["accuracy_mean"])
    assert f'data-first="{worst["target"]:g},{worst["bits"]}"' in root
