"""What a run gives to the program that started it: its numbers, and from its directory its history and figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from jopt import codec, report
from jopt.report import Figure, tables
from jopt.task import Task
from jopt.train.metrics import MetricsRow
from jopt.train.workdir import Workdir


class Result(dict[str, Any]):
    """The fields of `result.json`: a dictionary that a notebook shows as tables.

    Attributes:
      workdir: the directory of the run, from which the properties are read when they are asked for.
      task: of the run, which names its metrics.
    """

    def __init__(self, fields: Mapping[str, Any], workdir: str | os.PathLike[str], task: Task):
        super().__init__(fields)
        self.workdir, self.task = Workdir(workdir).path, task.resolved()

    @property
    def history(self) -> list[MetricsRow]:
        """The rows of `metrics.jsonl`: `step`, `stage`, `split` and the metrics. `pandas.DataFrame` takes them.

        Raises:
          WorkdirError: if they are not those that the run wrote.
        """
        return Workdir(self.workdir).load_rows()

    @property
    def figures(self) -> dict[str, Figure]:
        """The figures of the report that can be drawn from the run's files, by name. A notebook displays them."""
        figures = [report.learning_curves(self.history, task=self.task)]
        if stages := self.get("stages"):
            figures.append(report.compression_overview(stages, task=self.task))
        packed = Workdir(self.workdir).packed
        if packed.is_file():
            figures.append(report.ledger_figure(codec.read(packed).ledger, packed.name))
        return {figure.name: figure for figure in figures}

    def __repr__(self) -> str:
        # Without those of each stage, and what is only compared: a repr is one line.
        scalars = {k: v for k, v in self.items() if isinstance(v, int | float) or v is None}
        return f"Result({scalars}, workdir={str(self.workdir)!r})"

    def _repr_html_(self) -> str:
        shown = [report.result_table(self, title=str(self.workdir), task=self.task)]
        if stages := self.get("stages"):
            shown.insert(0, report.stages_table(stages, brief=True, task=self.task))
        return "\n".join(map(tables.to_html, shown))
