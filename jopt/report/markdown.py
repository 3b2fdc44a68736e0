"""The report.md of a run directory."""

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from jopt.report import formats, tables


def report_markdown(
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    figures: Mapping[str, str],
    model: tables.Table | None = None,
    more: str = "",
) -> str:
    """The report of one run, as GitHub Markdown.

    Args:
      config: the resolved config, as in config.json; its `name` is the title.
      manifest: as in manifest.json; `argv` (a list) is shown as the command. Every other entry but the config is
        the environment; nested mappings become dotted names. What is missing is left out.
      rows: the rows of metrics.jsonl.
      result: as in result.json.
      figures: caption to path, relative to the report.
      model: the table of `model_table`, where there is one.
      more: sections to stand behind the figures.

    Returns:
      The text: title, command, result, figures, stages, model, environment, config.
    """
    parts = [f"# {tables.escape(str(config.get('name') or 'Training run'))}"]
    if manifest.get("argv"):
        argv = manifest["argv"]
        parts.append(_fence(argv if isinstance(argv, str) else shlex.join(map(str, argv)), "sh"))
    parts += ["## Result", tables.to_markdown(tables.result_table(result, title=""))]
    parts += [f"![{tables.escape(caption)}](<{path}>)" for caption, path in figures.items()]
    if more:
        parts.append(more.strip())
    stages = _stages(rows)
    if stages.rows:
        parts += ["## Stages", tables.to_markdown(stages)]
    if model is not None:
        parts += ["## Model", tables.to_markdown(model._replace(title=""))]
    environment = _flatten({k: v for k, v in manifest.items() if k not in ("argv", "config")})
    if environment:
        table = tables.Table("", ("", "value"), "ll", environment)
        parts += ["## Environment", tables.to_markdown(table)]
    text = json.dumps(config, indent=2, ensure_ascii=False, default=str)
    parts.append(f"## Config\n\n<details><summary>config.json</summary>\n\n{_fence(text, 'json')}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def _stages(rows: Sequence[Mapping[str, Any]]) -> tables.Table:
    """The last row of every stage and split."""
    last = {(row.get("stage", ""), row.get("split", "")): row for row in rows}
    keys = [k for k in ("loss", "accuracy", "steps_per_second") if any(k in row for row in last.values())]
    cells = [
        (*map(str, place), formats.integer(row["step"]), *(formats.value(k, row.get(k)) for k in keys))
        for place, row in last.items()
    ]
    header = ("stage", "split", "last step", *(k.replace("steps_per_second", "steps/s") for k in keys))
    return tables.Table("", header, "ll" + "r" * (1 + len(keys)), cells)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    out = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            out += _flatten(value, f"{name}.")
        elif isinstance(value, list | tuple):
            out.append((name, ", ".join(v if isinstance(v, str) else json.dumps(v, default=str) for v in value)))
        else:
            out.append((name, "-" if value is None else str(value)))
    return out


def _fence(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
