"""A column from somebody else's file is in the terminal, in Markdown and in HTML, of a run and of its stages."""

import io

import numpy as np
import rich.console
from compressed import stages

from jopt import measure, report
from jopt.measure import Column, Measured
from jopt.report.run_report import compression_parts, run_parts
from jopt.train.display import stage_fields


def norm(measured: Measured) -> float:
    return float(np.linalg.norm(measured.outcome.params["Dense_0"]["kernel"]))


WEIGHTS_NORM = Column("weights_norm", "L2 of the weights", "", None, ".3f", norm)
NAMES = (f"{__name__}:WEIGHTS_NORM",)


def test_of_stages_and_of_the_result():
    outcomes, labels, flops = stages("3 stages")
    rows = measure.stage_rows(outcomes, labels, flops, NAMES)
    expected = [f"{np.linalg.norm(o.params['Dense_0']['kernel']):.3f}" for o in outcomes]
    fields = stage_fields(rows, NAMES)
    assert fields["stages"] == rows and f"{fields['weights_norm']:.3f}" == expected[-1]
    parts = compression_parts(outcomes, rows, labels, columns=NAMES)
    parts = run_parts({"name": "a"}, {}, [], fields, stages=rows, compression=parts, columns=NAMES)
    page, markdown = report.to_html("a", parts), report.parts_markdown(parts)
    for text in (page, markdown):
        # In the table of the stages, and in that of the result.
        assert text.count("L2 of the weights") == 2
        assert [text.count(cell) for cell in expected] == [1, 1, 2]
    stream = io.StringIO()
    table = report.stages_table(rows, brief=True, columns=NAMES)
    for piece in report.fit(table, 80):
        report.show(piece, rich.console.Console(file=stream, width=80))
    assert all(cell in stream.getvalue() for cell in expected)
    assert max(map(len, stream.getvalue().splitlines())) <= 80


def test_a_single_stage_has_it_in_the_result_alone():
    outcomes, labels, flops = stages("1 stage")
    fields = stage_fields(measure.stage_rows(outcomes, labels, flops, NAMES), NAMES)
    assert list(fields) == ["weights_norm"]
    table = report.result_table(fields, columns=NAMES)
    assert table.rows == [("L2 of the weights", f"{fields['weights_norm']:.3f}")]
