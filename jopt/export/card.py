"""The model card: a README.md that says what a model is, what it measures, how to run it and what not to expect."""

import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from jopt import data, report
from jopt.export import speed
from jopt.export.formats import Missing, Written
from jopt.export.source import Source
from jopt.report import formats
from jopt.report.tables import Table, escape, to_markdown
from jopt.rules import named_leaves
from jopt.task import Classification, MultiLabel, NextToken, Regression, SequenceLabelling

_Yaml = Mapping[str, "_Yaml"] | list["_Yaml"] | str | int | float | None

_TAGS = {
    "tie": "weight-tying",
    "prune": "pruning",
    "share": "weight-sharing",
    "quantize": "quantization",
    "activations": "quantization",
    "distill": "distillation",
}
# Nothing that YAML reads as a number, a truth value or null.
_PLAIN_KEY = "(?!(?:null|true|false)$)[a-z_]{4,}(-[a-z]+)?"


def card(
    run: Source, files: Sequence[Written], missing: Sequence[Missing], measured: speed.Report | None = None
) -> str:
    """The model card of a finished run, as GitHub Markdown behind a YAML header.

    Args:
      run: the finished run.
      files: what lies beside the card.
      missing: what could have been there and is not.
      measured: how fast quantized files are, if there are any.

    Returns:
      The text. But for the times of `measured`, only what the run's files say is in it: the same run gives the same
      card.
    """
    dataset, result = run.dataset, run.result
    kind = f"`{run.network}`" if run.given_model is None else f"a model of its own (not `{run.network}`)"
    parts = [
        front_matter(_header(run, files)),
        f"# {escape(run.name)}",
        f"{_purpose(run)}, {kind}, trained on the data set {escape(dataset.name)}; "
        f"one input is {_shapes(run)}. {formats.integer(result['parameters'])} parameters, "
        f"{formats.integer(result['nonzero_parameters'])} of them not zero; {_quality(run)}.",
        *_measures(run),
        *_files(run, files, missing),
        *_speed(files, measured),
        *_usage(run, files),
        *_making(run),
        *_limits(run, files),
    ]
    return "\n\n".join(parts) + "\n"


def _purpose(run: Source) -> str:
    """What the model does, as the beginning of a sentence."""
    classes, targets = run.dataset.num_classes, run.dataset.test.targets
    purposes: dict[type, str] = {
        Classification: f"A classifier of {classes} classes",
        MultiLabel: f"A classifier of {np.shape(targets)[-1:][0] if np.ndim(targets) else 1} labels, any number of "
        "them each",
        SequenceLabelling: f"A classifier of positions, of {classes} classes",
        Regression: "A regression",
        NextToken: f"A model of the next token, of {classes}",
    }
    return purposes.get(type(run.task), f"A model of the task {escape(run.task.name)}")


def _shapes(run: Source) -> str:
    """The inputs of one example."""
    shape, numbers = run.stored, isinstance(run.stored, jax.ShapeDtypeStruct)
    if numbers and run.dataset.mean is not None:
        return "x".join(map(str, shape.shape)) or "a number"
    return f"`{data.leaf_shapes(shape)}`"


def _quality(run: Source) -> str:
    """How good the model is, at the end of a sentence."""
    count = f"{data.examples_in(run.dataset.test.targets):,} test examples"
    key = run.metric.key
    if isinstance(run.task, Classification):
        return f"{formats.percent(run.result[key])} of {count} right"
    return f"{run.task.deciding.label} {formats.value(key, run.result.get(key), run.task)} on {count}"


def inputs_code(mean: PyTree, std: PyTree, shape: Sequence[int] | PyTree) -> str:
    """Python that makes `x`, a batch of normalized inputs, of raw ones.

    Args:
      mean: what the inputs are normalized with, of their structure; None: they are not.
      std: likewise.
      shape: the raw inputs of one example: a `jax.ShapeDtypeStruct`, or nested dictionaries, lists and tuples of
        them; or a shape alone, of uint8.

    Example:
      >>> print(inputs_code(np.float32([0.1, 0.1]), np.float32([2, 3]), (4, 2)))
      import numpy as np
      raw = np.zeros((2, 4, 2), np.uint8)  # your examples, as the data set has them
      x = (raw - np.float32(0.1)) / np.float32([2.0, 3.0])
      >>> print(inputs_code(None, None, jax.ShapeDtypeStruct((8,), np.int32)))
      import numpy as np
      raw = np.zeros((2, 8), np.int32)  # your examples, as the data set has them
      x = raw
    """
    if isinstance(shape, Sequence) and all(isinstance(n, int) for n in shape):
        shape = jax.ShapeDtypeStruct(tuple(shape), np.uint8)
    raw = _nested(shape, lambda _, leaf: f"np.zeros({(2, *leaf.shape)!r}, np.{leaf.dtype})")
    means, stds = (dict(named_leaves(tree)) for tree in (mean, std))

    def normalized(at: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> str:
        del leaf
        path, name = "/".join(map(str, at)), "raw" + "".join(f"[{key!r}]" for key in at)
        return f"({name} - {_array(means[path])}) / {_array(stds[path])}" if path in means else name

    return (
        "import numpy as np\n"
        f"raw = {raw}  # your examples, as the data set has them\n"
        f"x = {_nested(shape, normalized)}"
    )


def _nested(tree: PyTree, text: Callable[[tuple[Any, ...], Any], str], at: tuple[Any, ...] = ()) -> str:
    """A Python literal of nested dictionaries, lists and tuples."""
    if isinstance(tree, Mapping):
        return f"{{{', '.join(f'{key!r}: {_nested(tree[key], text, (*at, key))}' for key in tree)}}}"
    if isinstance(tree, list | tuple):
        parts = [_nested(part, text, (*at, i)) for i, part in enumerate(tree)]
        return f"[{', '.join(parts)}]" if isinstance(tree, list) else f"({', '.join(parts)},)"
    return text(at, tree)


def _array(values: np.ndarray) -> str:
    """The shortest Python for a float32 vector that may repeat itself, channel by channel."""
    # Of each float32 the shortest decimal that is read back as it. A flattened image repeats its channels.
    numbers = [float(str(v)) for v in np.reshape(values, -1)]
    period = next(p for p in range(1, len(numbers) + 1) if numbers == numbers[:p] * (len(numbers) // p))
    if period == 1:
        return f"np.float32({numbers[0]})"
    few = f"np.float32({numbers[:period]})"
    return few if period == len(numbers) else f"np.tile({few}, {len(numbers) // period})"


def _header(run: Source, files: Sequence[Written]) -> dict[str, _Yaml]:
    # Hubs filter by tags: formats that are there, and methods by their usual names.
    methods = (tag for method, tag in _TAGS.items() if method in run.methods)
    tags = ["jopt", "jax", *(file.format for file in files), *methods]
    keys = [metric.key for metric in run.task.metrics]
    measured = {key: value for key in (*keys, "loss") if _is_number(value := run.result.get(key))}
    return {
        "library_name": "jopt",
        "tags": list(dict.fromkeys(tags)),
        "datasets": [run.dataset.name],
        "metrics": list(keys),
        "model-index": [
            {
                "name": run.name,
                "results": [
                    {
                        "task": {
                            "type": "image-classification" if run.images else "other",
                            "name": run.task.name,
                        },
                        "dataset": {"name": run.dataset.name, "type": run.dataset.name, "split": "test"},
                        "metrics": [{"type": key, "name": key, "value": v} for key, v in measured.items()],
                    }
                ],
            }
        ],
    }


def _measures(run: Source) -> Iterator[str]:
    yield "## Measures"
    # Of a run that wrote no packed file, the bytes in its result are those of the arrays in memory.
    size = "packed_bytes" if run.is_packed else "dense_bytes"
    numbers = {
        size if key == "bytes" else key: value
        for key, value in run.result.items()
        # Times are of a machine, and would make another card of the same run.
        if key not in ("digest", "wall_seconds", "compile_seconds")
    }
    yield to_markdown(report.result_table(numbers, title="", task=run.task))
    if stages := run.result.get("stages"):
        yield "Stage by stage:"
        yield to_markdown(report.stages_table(stages, title="", task=run.task))
    metrics = "Accuracy" if isinstance(run.task, Classification) else "Metrics"
    yield (
        f"{metrics} and loss are of the test part. FLOPs are those of one example, counted from shapes; the "
        "*theoretical* ones leave out what is multiplied by zero, which no program here does."
    )


def _files(run: Source, files: Sequence[Written], missing: Sequence[Missing]) -> Iterator[str]:
    rows = []
    for file in files:
        cells = (file.file.name, formats.integer(file.bytes), file.summary)
        # JSON files and dense parameters are read, not run.
        if (agreement := file.agreement) is None:
            rows.append((*cells, "-", "-", "-"))
            continue
        difference = formats.number(agreement.largest_difference)
        value = formats.value(run.metric.key, agreement.value, run.task)
        rows.append((*cells, value, agreement.same, difference))
    yield "## Files"
    name, classifies = run.task.deciding.label, isinstance(run.task, Classification)
    header = ("file", "bytes", "what", name, "same class" if classifies else "same decisions", "largest difference")
    table = Table("", header, "lrlrrr", rows)
    compared = (
        "for how many examples it predicts the class that the run's own evaluation predicts, and the largest "
        "difference of two logits"
        if classifies
        else "how many of its decisions are those of the run's own evaluation, and the largest difference of two "
        "outputs"
    )
    if all(agreement is None or agreement.equal_predictions is None for agreement in (f.agreement for f in files)):
        table = Table("", (*header[:4], header[5]), "lrlrr", [(*row[:4], row[5]) for row in rows])
        compared = "and the largest difference of two outputs from those of the run's own evaluation"
    yield to_markdown(table)
    yield f"The last columns were measured by running the file itself on the test part: its {name}, {compared}."
    if missing:
        yield "Not here:\n\n" + "\n".join(f"- {escape(name)}: {escape(reason)}" for name, reason in missing)


def _speed(files: Sequence[Written], measured: speed.Report | None) -> Iterator[str]:
    programs = [f"`{file.file.name}`" for file in files if file.file.name == "integer.stablehlo"]
    if measured is None and not programs:
        return
    yield "## Speed"
    if measured is not None:
        yield escape(measured.recommendation)
        if measured.measurement is not None and measured.advice is not None:
            yield "\n".join(f"- {escape(sentence)}" for sentence in measured.advice.sentences)
            yield to_markdown(_times(measured.measurement, measured.advice))
            yield _circumstances(measured.measurement)
    for name in programs:
        yield f"{name} was not timed: nothing is recommended about its speed."


def _times(measurement: speed.Measurement, advice: speed.Advice) -> Table:
    ratios = {(entry.form, entry.batch): entry for entry in advice.speeds}
    rows = []
    for calls in measurement.calls:
        for name, seconds in calls.seconds.items():
            entry = ratios.get((name, calls.batch))
            ratio = ("", "") if entry is None else (f"{entry.median:.2f}", f"{entry.p10:.2f}")
            rows.append((str(calls.batch), name, f"{1e6 * float(np.median(seconds)):,.0f}", *ratio))
    header = ("batch", "file", "µs a call", "times as fast as float32", "in nine of ten rounds at least")
    return Table("", header, "rlrrr", rows)


def _circumstances(measurement: speed.Measurement) -> str:
    threads = f"{measurement.threads} {'thread' if measurement.threads == 1 else 'threads'}"
    return escape(
        f"Measured on {measurement.date} by {measurement.runtime} with {threads} on {measurement.machine}: "
        "medians of rounds in which the files took turns. Another machine, or other work on this one, gives other "
        "times."
    )


def _usage(run: Source, files: Sequence[Written]) -> Iterator[str]:
    yield "## Use"
    normalized = len(jax.tree.leaves(run.dataset.mean)) == len(jax.tree.leaves(run.stored))
    inputs = (
        "Inputs are float32, normalized as in training by the mean and standard deviation of the training part."
    )
    if not normalized:
        inputs = (
            f"Inputs are {data.leaf_shapes(run.example)} for each example; those that have a mean and a standard "
            "deviation below are normalized with them, which are of the training part."
        )
    yield f"{inputs} The code below follows on this, in the directory of the files:"
    yield _code(inputs_code(run.dataset.mean, run.dataset.std, run.stored))
    # Files that are run by the same code share it: four StableHLO programs are one block.
    names: dict[str, list[str]] = {}
    for file in files:
        if file.code:
            names.setdefault(file.code, []).append(file.file.name)
    for code, (name, *others) in names.items():
        also = f" (the same for {', '.join(f'`{other}`' for other in others)})" if others else ""
        yield f"`{name}`{also}:"
        yield _code(code.replace("{name}", name))


def _making(run: Source) -> Iterator[str]:
    manifest = run.manifest
    yield "## How it was made"
    if run.command:
        yield _code(shlex.join(run.command), "sh")
    yield "What was set; everything else is the default:"
    rows = [(path, json.dumps(value)) for path, value in run.settings.items()]
    yield to_markdown(Table("", ("field", "value"), "ll", rows))
    # A manifest of an earlier version, or of a run outside of a repository, lacks some of it.
    git = manifest.get("git") or {}
    versions = manifest.get("packages") or {}
    facts = {
        "git commit": f"{git['commit']}{' and changes' * bool(git.get('dirty'))}" if git.get("commit") else None,
        "config": manifest.get("config_hash"),
        "data": manifest.get("dataset_fingerprint"),
        "parameters": run.result.get("digest"),
        "python": manifest.get("python"),
        **{name: version for name, version in versions.items() if version},
        "system": manifest.get("system"),
        "processor": manifest.get("cpu"),
        "device": (manifest.get("devices") or {}).get("kind"),
    }
    yield "From the run's manifest; config, data and parameters by their digests:"
    yield to_markdown(Table("", ("", ""), "ll", [(k, str(v)) for k, v in facts.items() if v is not None]))


def _limits(run: Source, files: Sequence[Written]) -> Iterator[str]:
    examples, classifies = data.examples_in(run.dataset.test.targets), isinstance(run.task, Classification)
    size = f"The test part has {examples:,} examples"
    size += f", so one of them is {100 / examples:.2g} percentage points." if classifies else "."
    # What is true of every such run stands first; what only some files bring along is added.
    limits = [
        f"One run, with seed {run.seed}. Another seed gives another model: to call one method better than "
        "another takes several seeds of both.",
        size,
        "Nothing checks that an input is like those of the data set: it gets "
        f"{'a class' if classifies else 'an output'} in any case.",
    ]
    if any(file.format == "stablehlo" for file in files):
        limits.append(
            "A StableHLO artefact can be run by versions of jaxlib up to 6 months newer, or 3 weeks older, than "
            "the one that wrote it, which its JSON file names."
        )
    if "activations" in run.methods and any(file.file.name.startswith("shrunk.") for file in files):
        limits.append(
            "In the shrunk function, a constant that a removed unit left to the next bias is not quantized."
        )
    yield "## Limits"
    yield "\n".join(f"- {sentence}" for sentence in limits)


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _code(text: str, language: str = "python") -> str:
    # A run may be called anything, and its name is in the command.
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def front_matter(values: Mapping[str, _Yaml]) -> str:
    r"""A YAML header of nested mappings, lists, texts and numbers; texts are quoted, whatever they hold.

    Raises:
      ValueError: for a number that is not finite.

    Example:
      >>> print(front_matter({"tags": ["a: b", "\n"], "model-index": [{"name": "x", "size": 2}]}))
      ---
      tags:
        - "a: b"
        - "\n"
      model-index:
        - name: "x"
          size: 2
      ---
    """
    return "\n".join(["---", *_yaml(values), "---"])


def _yaml(value: Mapping[str, _Yaml] | list[_Yaml]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            name = key if re.fullmatch(_PLAIN_KEY, key) else _scalar(key)
            if not isinstance(inner, Mapping | list):
                yield f"{name}: {_scalar(inner)}"
            elif not inner:
                yield f"{name}: {'{}' if isinstance(inner, Mapping) else '[]'}"
            else:
                yield f"{name}:"
                yield from (f"  {line}" for line in _yaml(inner))
    else:
        for item in value:
            first, *others = _yaml(item) if isinstance(item, Mapping) else [_scalar(item)]
            yield f"- {first}"
            yield from (f"  {line}" for line in others)


def _scalar(value: _Yaml) -> str:
    """A JSON scalar, which is one of YAML too, but for characters that YAML would not print."""
    # Not escaped as JSON has it: YAML knows no pairs of surrogates.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, float) and "." not in text:
        text = text.replace("e", ".0e")  # 1e-05 is a text in YAML 1.1
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
