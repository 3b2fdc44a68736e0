"""Whatever is in a file or a flag, a reader gives a model, a config or one of its documented errors."""

import random
import resource
import warnings

import pytest

from jopt import address
from tests.fuzzing import engine, mutation
from tests.fuzzing.targets import SHARES, Document, all_targets

pytestmark = pytest.mark.unoptimized
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return all_targets(tmp_path_factory.mktemp("fuzzing"))


def explain(report):
    return "\n".join(f"{f.value!r}\n{f.error}" for f in report.findings.values())


def test_two_thousand_inputs_give_clear_errors(targets):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reports = {}
    for name, target in targets.items():
        reports[name] = engine.fuzz(target, max(15, int(20 * SHARES[name])), seed=0)
        assert not reports[name].findings, f"{name}: {explain(reports[name])}"
    assert sum(report.inputs for report in reports.values()) >= 2000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 256 * MEBIBYTE
    # Neither all inputs are refused at the door, nor all are read.
    for name in ("packed files", "config.json", "ablation.json", "flags"):
        assert set(reports[name].outcomes) == {"error", "read"}, name


@pytest.mark.slow
def test_many_inputs_give_clear_errors(targets):
    for name, target in targets.items():
        report = engine.fuzz(target, int(500 * SHARES[name]), seed=1)
        assert not report.findings, f"{name}: {explain(report)}"


GRID = {"experiment": {}, "groups": []}
CHUNK = {"id": "a", "width": 1, "lanes": 1, "devices": 1}
# Made small by the fuzzer; each raised an undocumented error once.
FINDINGS = [
    *(("manifest.json", Document(value)) for value in ({"events": "0"}, {"events": ["a"]}, {"events": [{}]})),
    ("manifest.json", Document({"config": {"ema_decay": float("inf")}, "events": []})),
    ("manifest.json", Document(None, b'{"events": [{"event": "start", "step": 1e999}]}')),
    *(("ablation.json", Document({**GRID, "trials": value})) for value in ([{}], [False], "a", [{"trial": 2.0}])),
    ("ablation.json", Document({"experiment": {}, "groups": [], "trials": []})),
    ("ablation.json", Document({"experiment": "a", "groups": [], "trials": [{"trial": "a", "overrides": {}}]})),
    *(("chunk result", Document(value)) for value in ({}, {"trials": [{}]}, {"trials": [{"row": "a"}]})),
    *(("chunk.json", Document(value)) for value in ({}, {**CHUNK, "trials": [{}]}, {**CHUNK, "trials": [[]]})),
    *(("trials.csv", Document(None, raw)) for raw in (b"\xff", b"\n7")),
    ("result.json", Document({"parameters": "a", "bytes": 464, "digest": "0"})),
    ("result.json", Document({"parameters": {}, "bytes": 10**400, "digest": "0"})),
    *(("packed model", Document({"model": value})) for value in (["a"], "a", 5)),
    ("checkpoint metadata", Document({"custom_metadata": {"accuracy": 10**400}})),
]


@pytest.mark.parametrize(("name", "document"), FINDINGS)
def test_findings_stay_mended(targets, name, document):
    assert targets[name].read(document) in ("error", "read")


def test_a_text_that_python_warns_of_is_a_text():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert address.parse("0or") == "0or"
    assert not caught


def spelled(text):
    """How much of a word is there, with a line for each letter."""
    if not text.startswith("f"):
        return "part"
    if not text.startswith("fu"):
        return "part"
    if not text.startswith("fuz"):
        return "part"
    if not text.startswith("fuzz"):
        return "part"
    return "whole"


def test_what_reaches_new_lines_is_kept_and_leads_further():
    def letter(rng, text, other):
        at = rng.randint(0, len(text))
        return (text[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + text[at + 1 :])[:8]

    target = engine.Target(("a",), letter, spelled, mutation.smaller_text)
    guided, blind = engine.fuzz(target, 3000, below=__file__), engine.fuzz(target, 3000)
    # Blindly a change of one letter never gets beyond the first: 26^4 words, and none but the seed to start from.
    assert guided.outcomes["whole"] > 10 and "whole" not in blind.outcomes
    assert blind.corpus == 1 and guided.corpus == 5
    assert engine.fuzz(target, 3000, below=__file__)._replace(slowest=guided.slowest) == guided


def test_a_finding_is_made_small():
    def read(text):
        if "x" in text and "y" in text:
            raise ZeroDivisionError
        return "read"

    target = engine.Target(("aaxbbycc",), mutation.change_text, read, mutation.smaller_text)
    (finding,) = engine.fuzz(target, 1).findings.values()
    assert finding.value == "xy" and "ZeroDivisionError" in finding.error


@pytest.mark.parametrize("change", [mutation.change_bytes, mutation.change_json, mutation.change_text])
def test_changes_leave_their_input_and_follow_the_seed(change):
    value = {mutation.change_bytes: b"abcdef", mutation.change_text: "abcdef"}.get(
        change, {"a": [1, {"b": 2}], "c": 3}
    )
    copies = [repr(change(random.Random(seed), value, value)) for seed in range(200)]
    assert copies == [repr(change(random.Random(seed), value, value)) for seed in range(200)]
    assert len(set(copies)) > 50
    assert value in (b"abcdef", "abcdef", {"a": [1, {"b": 2}], "c": 3})
