"""What is recommended for speed: a judgement of given times, one real measurement, and what the card says."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jopt.export import Written, card, export, formats, source, speed
from jopt.export.source import Agreement
from jopt.export.speed import Calls, Form, Measurement, advise

FLOAT, INTEGER, QDQ = Form("float.onnx", 400, 0.9), Form("quantized.onnx", 102, 0.9), Form("qdq.onnx", 104, 0.9)


def calls(batch, **seconds):
    """Seven equal rounds of each file."""
    return Calls(batch, {f"{name}.onnx": [value] * 7 for name, value in seconds.items()})


def measurement(*entries):
    return Measurement(entries, "ONNX Runtime 9.9", "a processor, 2 cores", 2, "2026-11-30")


def test_a_form_that_measured_slower_is_not_recommended_and_it_says_so():
    advice = advise(FLOAT, [INTEGER], [calls(1, float=1.0, quantized=1.01), calls(64, float=59.0, quantized=100.0)])
    assert advice.fastest == {1: "float.onnx", 64: "float.onnx"}
    assert [(s.form, s.batch, s.faster) for s in advice.speeds] == [
        ("quantized.onnx", 1, False),
        ("quantized.onnx", 64, False),
    ]
    (sentence,) = advice.sentences
    assert "slower than float32 here: 0.99 times at batch 1, 0.59 times at batch 64; smaller by 3.9" in sentence
    assert "float.onnx" in advice.recommendation and "quantized.onnx" not in advice.recommendation


def test_the_fastest_form_of_each_batch_size_is_recommended():
    entries = [calls(1, float=1.0, quantized=0.5, qdq=0.4), calls(64, float=59.0, quantized=100.0, qdq=32.0)]
    advice = advise(FLOAT, [INTEGER, QDQ], entries)
    assert advice.fastest == {1: "qdq.onnx", 64: "qdq.onnx"}
    assert "qdq.onnx (2.50 times at batch 1, 1.84 times at batch 64)" in advice.recommendation
    mixed = advise(FLOAT, [INTEGER], [calls(1, float=2.0, quantized=1.0), calls(64, float=1.0, quantized=2.0)])
    assert mixed.fastest == {1: "quantized.onnx", 64: "float.onnx"}
    assert all(text in mixed.recommendation for text in ("quantized.onnx (2.00", "float.onnx at batch 64"))
    (sentence,) = mixed.sentences
    assert "slower than float32 here: 0.50" in sentence and "faster than float32 here: 2.00" in sentence


def test_a_form_that_loses_accuracy_is_not_recommended_however_fast():
    worse = INTEGER._replace(value=0.89)  # 0.891 is 99 % of 0.9
    entries = [calls(64, float=10.0, quantized=1.0, qdq=5.0)]
    assert advise(FLOAT, [worse, QDQ], entries).fastest == {64: "qdq.onnx"}
    alone = advise(FLOAT, [worse], entries)
    assert alone.fastest == {64: "float.onnx"}
    assert "89 %" in alone.sentences[0] and "accuracy" in alone.recommendation
    assert advise(FLOAT, [INTEGER._replace(value=0.891)], entries).fastest == {64: "quantized.onnx"}


def test_a_difference_within_the_noise_is_no_reason():
    # The median round is a tenth faster; two of seven are not.
    entry = Calls(1, {"float.onnx": [1.1] * 7, "quantized.onnx": [1.0] * 5 + [1.2] * 2})
    advice = advise(FLOAT, [INTEGER], [entry])
    assert advice.speeds[0].median > 1 and not advice.speeds[0].faster
    assert advice.fastest == {1: "float.onnx"} and "no faster than float32 here: 1.10" in advice.sentences[0]


@given(st.data(), st.integers(3, 7), st.floats(0, 1), st.floats(0, 1))
def test_what_is_recommended_was_faster_in_most_rounds_and_holds(data, rounds, accuracy, quantized):
    seconds = st.lists(st.floats(1e-6, 10.0), min_size=rounds, max_size=rounds)
    entry = Calls(8, {name: data.draw(seconds) for name in ("float.onnx", "quantized.onnx", "qdq.onnx")})
    floating, forms = FLOAT._replace(value=accuracy), [INTEGER._replace(value=quantized), QDQ]
    advice = advise(floating, forms, [entry])
    name = advice.fastest[8]
    assert name in advice.recommendation
    for form in forms:
        if form.name == name:
            assert form.value >= 0.99 * accuracy
            assert np.median(entry.seconds[name]) < max(entry.seconds["float.onnx"])
        elif np.median(entry.seconds[form.name]) > max(entry.seconds["float.onnx"]):
            assert f"{form.name}: slower" in next(s for s in advice.sentences if s.startswith(form.name))


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Two files that multiply by a matrix."""
    onnx = pytest.importorskip("onnx")
    from jopt.export.onnx import INPUT, OUTPUT

    kernel = onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "kernel")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", size])
        for name, size in ((INPUT, 4), (OUTPUT, 3))
    ]
    node = onnx.helper.make_node("MatMul", [INPUT, "kernel"], [OUTPUT])
    graph = onnx.helper.make_graph([node], "product", ends[:1], ends[1:], [kernel])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)])
    paths = {name: tmp_path_factory.mktemp("speed") / name for name in ("float.onnx", "quantized.onnx")}
    for path in paths.values():
        path.write_bytes(model.SerializeToString())
    return paths


def test_a_measurement_has_every_file_batch_and_round_and_where_it_was_made(products):
    pytest.importorskip("onnxruntime")
    measured = speed.measure(products, np.ones((3, 4), np.float32), (1, 5), rounds=3, seconds=0)
    assert [entry.batch for entry in measured.calls] == [1, 5]
    for entry in measured.calls:
        assert list(entry.seconds) == ["float.onnx", "quantized.onnx"]
        assert all(len(s) == 3 and all(0 < t < math.inf for t in s) for s in entry.seconds.values())
    assert re.fullmatch(r"ONNX Runtime \d+\.\S+", measured.runtime)
    assert measured.threads >= 1 and re.fullmatch(r"\d{4}-\d\d-\d\d", measured.date)


def test_without_the_runtime_nothing_is_measured_or_recommended(products, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert speed.measure(products, np.ones((3, 4), np.float32)) is None
    report = speed.report(None, FLOAT, [INTEGER])
    assert (report.advice, report.measurement) == (None, None)
    assert "not installed" in report.recommendation and "nothing is recommended" in report.recommendation


def written(*names):
    agreement = Agreement(16, 16, 0.0, 0.9)
    return [Written("onnx", Path(name), 400 if name == "float.onnx" else 102, "", "", agreement) for name in names]


def never(files, examples, batches):
    raise AssertionError("nothing is to be timed")


def test_only_quantized_files_beside_a_float_one_are_timed():
    x, both = np.ones((3, 4), np.float32), written("float.onnx", "quantized.onnx")
    assert formats.timed(written("float.onnx"), x, (1,), never) is None
    assert formats.timed([], x, (1,), never) is None
    for files, batches, reason in ((both, (), "not asked for"), (both[1:], (1,), "no float.onnx")):
        report = formats.timed(files, x, batches, never)
        assert report.advice is None and reason in report.recommendation

    def timer(files, examples, batches):
        assert files == {"float.onnx": Path("float.onnx"), "quantized.onnx": Path("quantized.onnx")}
        assert examples is x and batches == (8,)
        return measurement(calls(8, float=1.0, quantized=0.5))

    assert formats.timed(both, x, (8,), timer).advice.fastest == {8: "quantized.onnx"}


def test_the_card_has_the_times_the_machine_and_the_advice(exported):
    run = source.load(exported.run)
    files = written("float.onnx", "quantized.onnx")
    given_times = measurement(calls(1, float=1e-5, quantized=2e-5), calls(64, float=59e-6, quantized=100e-6))
    report = speed.report(given_times, FLOAT, [INTEGER])
    section = card.card(run, files, [], report).split("\n## Speed\n")[1].split("\n## ")[0]
    assert "no quantized form measured faster" in section
    assert "slower than float32 here: 0.50 times at batch 1, 0.59 times at batch 64; smaller by 3.9" in section
    assert re.search(r"^\| 64 \| quantized.onnx \| 100 \| 0.59 \| 0.59 \|$", section, re.MULTILINE)
    for fact in ("2026-11-30", "ONNX Runtime 9.9", "2 threads", "a processor, 2 cores"):
        assert fact in section
    unmeasured = card.card(run, files, [], speed.report(None, FLOAT, [INTEGER]))
    assert "nothing is recommended for speed" in unmeasured and "times as fast" not in unmeasured
    assert "## Speed" not in card.card(run, files[:1], [])
    program = Written("stablehlo", Path("integer.stablehlo"), 5)
    assert "`integer.stablehlo` was not timed" in card.card(run, [program], [])


def test_the_bytes_of_files_do_not_depend_on_the_times(exported, tmp_path):
    pytest.importorskip("jax2onnx", reason="needs the extra 'jopt[export]'")
    contents, cards = [], []
    for name, factor in (("slow", 2.0), ("fast", 0.5)):

        def timer(files, examples, batches, factor=factor):
            seconds = {file: [1.0 if file == "float.onnx" else factor] * 3 for file in files}
            return measurement(*(Calls(batch, seconds) for batch in batches))

        files = export(exported.run, tmp_path / name, ["onnx"], timer=timer)
        contents.append({f.file.name: f.file.read_bytes() for f in files if f.format == "onnx"})
        cards.append(files[-1])
    assert contents[0] == contents[1]
    assert list(contents[0]) == ["float.onnx", "quantized.onnx", "quantized_qdq.onnx"]
    slow, fast = (entry.summary for entry in cards)
    assert "float.onnx" in slow and "quantized" not in slow.partition(":")[0] and "quantized" in fast
    assert slow in cards[0].file.read_text().replace("\\", "")
