"""The summary: what counts as a comparison with another package, from whose side, in which order."""

import json

import pytest

from benchmarks import __main__, calls, contenders, files, peers, steps, summary
from jopt import report


def spread(median, p10=None, p90=None):
    return {"median": median, "p10": p10 or median, "p90": p90 or median}


def row(case, contender, against=None, **columns):
    return {"case": case, "contender": contender, **columns, **({"against": against} if against else {})}


SUITES = {
    "train": [
        row("net", contenders.JOPT),
        row("net", contenders.PYTORCH, contenders.JOPT, ratio=spread(1.5)),
        row("net", contenders.PYTORCH_FUSED, contenders.JOPT, ratio=spread(0.8, 0.7, 1.1)),
        row("net", contenders.PYTHON_LOOP, contenders.JOPT, ratio=spread(2.0)),
    ],
    "compress": [
        row("net", steps.INT8, steps.PLAIN, ratio=spread(1.1)),
        row("net", steps.QWIX, steps.INT8, ratio=spread(0.5, 0.4, 0.6)),
        row("net", steps.TORCH_AO, steps.INT8, ratio=spread(4.0)),
    ],
    "serving": [
        row("lenet", calls.ORT),
        row("lenet", calls.ORT_INTEGER, calls.ORT, speedup=spread(0.59, 0.57, 0.61)),
        row("lenet", calls.XLA_SHRUNK, calls.XLA, speedup=spread(3.0)),
        row("lenet", peers.TORCH, calls.ORT, speedup=spread(0.25)),
        row("lenet", peers.TORCH_DYNAMIC, calls.ORT_INTEGER, speedup=spread(1.25, 1.0, 2.0)),
    ],
    "codec": [
        row("dense", files.JOPT, bytes=10),
        row("dense", files.ZIP, files.JOPT, write_ratio=spread(3.0), read_ratio=spread(0.9)),
    ],
    "startup": [row("imports", "import jopt, jopt.train", "import jax, flax, optax", ratio=spread(1.1))],
}


def test_each_ratio_is_turned_to_jopt_s_side_and_the_worst_comes_first():
    entries = summary.comparisons(SUITES)
    assert [(e.suite, e.case, e.ours, e.package, round(e.median, 2)) for e in entries] == [
        ("compress", "net", steps.INT8, "qwix", 0.5),
        ("serving", "lenet", calls.ORT_INTEGER, "ONNX Runtime", 0.59),
        ("train", "net", contenders.JOPT, "PyTorch", 0.8),
        ("serving", "lenet", calls.ORT_INTEGER, "PyTorch", 0.8),
        ("codec", "dense, reading", files.JOPT, "NumPy", 0.9),
        ("train", "net", contenders.JOPT, "JAX", 2.0),
        ("codec", "dense, writing", files.JOPT, "NumPy", 3.0),
        ("compress", "net", steps.INT8, "torch.ao", 4.0),
    ]
    # Of PyTorch's variants only the fastest is left, and an inverse turns the range around.
    assert [e.peer for e in entries if e.suite == "train"] == [contenders.PYTORCH_FUSED, contenders.PYTHON_LOOP]
    assert (entries[3].p10, entries[3].p90) == (0.5, 1.0)
    assert [e.verdict for e in entries[:3]] == ["slower", "slower", "open"] and entries[-1].verdict == "faster"


def test_the_slower_ones_have_their_own_table_before_the_others():
    slower, others = summary.tables(SUITES)
    assert (len(slower.rows), len(others.rows)) == (5, 3)
    assert "5 of 8" in slower.title and "3 of 8" in others.title
    assert slower.rows[0] == ("compress: net", steps.INT8, steps.QWIX, "0.5 [0.4, 0.6]", "slower")
    assert summary.tables({"startup": SUITES["startup"], "compress": SUITES["compress"][:1]}) == []


def test_every_contender_of_another_package_is_recognized():
    begins = ("PyTorch", "torch", "qwix", "jaxpruner", "np.", "constriction")
    for module in (contenders, steps, calls, peers, files):
        for name in vars(module).values():
            if isinstance(name, str) and name.startswith(begins):
                assert summary.package(name) is not None, name
    for ours in (
        contenders.JOPT,
        *steps.methods(),
        files.JOPT,
        calls.ORT_INTEGER,
        calls.ORT_QDQ,
        calls.XLA_INTEGER,
    ):
        assert summary.package(ours) is None, ours


@pytest.fixture
def written(tmp_path):
    machine = {
        "date": "now",
        "cores": 2,
        "cpu": "x",
        "memory_bytes": 1,
        "device": "cpu",
        "python": "3",
        "load": 0.0,
    }
    common = {"schema": 2, "argv": ["a"], "machine": {**machine, "packages": {}}, "settings": {}}
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    shares = ({"train": 0.2}, {"train": 0.01})
    for path, suite, share in zip(paths, (SUITES["train"], SUITES["train"][:2]), shares, strict=True):
        path.write_text(json.dumps({**common, "others_share": share, "train": suite}))
    return paths


def test_files_are_summarized_without_running_anything(written, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(__main__, "SUITES", {})
    markdown = tmp_path / "s.md"
    assert __main__.main(["--summary", str(written[0]), f"--markdown={markdown}"]) == 0
    printed = capsys.readouterr().out
    assert "Where jopt is slower (1 of 2" in printed and "NOT A QUIET MACHINE" in printed
    text = markdown.read_text()
    assert report.to_markdown(summary.tables({"train": SUITES["train"]})[0]) in text
    # The second file's rows of the suite replace the first one's.
    assert __main__.main(["--summary", *map(str, written)]) == 0
    assert "Where jopt is slower (0 of 1" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": 1}'])
def test_a_file_that_is_no_measurement_is_one_line(tmp_path, capsys, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    assert __main__.main([f"--summary={path}"]) == 1
    captured = capsys.readouterr()
    assert str(path) in captured.err and captured.err.count("\n") == 1 and not captured.out
