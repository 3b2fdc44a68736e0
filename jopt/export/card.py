"""The model card: a README.md that says what a model is, what it measures, how to run it and what not to expect."""

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jopt import report
from jopt.config import canonical_json
from jopt.export.front_matter import front_matter
from jopt.export.functions import Agreement
from jopt.report import formats
from jopt.report.tables import Table, escape, to_markdown
from jopt.train.display import command
from jopt.train.finished import Finished
from jopt.train.plan import final_network

_TAGS = {
    "prune": "pruning",
    "share": "weight-sharing",
    "quantize": "quantization",
    "activations": "quantization",
    "tie": "weight-tying",
}


class File(NamedTuple):
    """A file beside the card.

    Attributes:
      name: relative to the card.
      format: one of `jopt.export.FORMATS`.
      bytes: its length.
      what: one line, without a full stop.
      run: Python that runs or reads it, given `x`, a batch of normalized inputs, or `raw`, the same as the data set
        has them, with `{name}` for its name; '' where nobody runs it by itself.
      agreement: how it compares with the model as it was evaluated; None where it was not run.
    """

    name: str
    format: str
    bytes: int
    what: str
    run: str = ""
    agreement: Agreement | None = None


def card(run: Finished, manifest: Mapping[str, Any], files: Sequence[File], absent: Mapping[str, str]) -> str:
    """The model card of a finished run, as GitHub Markdown behind a YAML header.

    Args:
      run: the finished run.
      manifest: what its manifest.json holds.
      files: what lies beside the card.
      absent: what could have been there and is not, to why.

    Returns:
      The text. Only what the run's files say is in it: the same run gives the same card.
    """
    name, dataset = run.config.name, run.dataset
    net = final_network(run.config).name
    what = f"a model of its own (not `{net}`)" if run.plan.network is None else f"`{net}`"
    shape = dataset.test.inputs.shape[1:]
    parts = [
        front_matter(_header(run, files)),
        f"# {escape(name)}",
        f"A classifier of {dataset.num_classes} classes, {what}, trained on the data set {escape(dataset.name)}; "
        f"one input is {'x'.join(map(str, shape))}. {formats.integer(run.result['parameters'])} parameters, "
        f"{formats.integer(run.result['nonzero_parameters'])} of them not zero; "
        f"{formats.percent(run.result['accuracy'])} of {len(dataset.test.labels):,} test examples right.",
        *_measures(run),
        *_files(files, absent),
        *_usage(run, files),
        *_making(run, manifest),
        *_limits(run, files),
    ]
    return "\n\n".join(parts) + "\n"


def inputs_code(mean: np.ndarray, std: np.ndarray, shape: Sequence[int]) -> str:
    """Python that makes `x`, a batch of normalized inputs, of raw ones.

    Example:
      >>> print(inputs_code(np.float32([0.1, 0.1]), np.float32([2, 3]), (4, 2)))
      import numpy as np
      raw = np.zeros((2, 4, 2), np.uint8)  # your examples, as the data set has them
      x = (raw - np.float32(0.1)) / np.float32([2.0, 3.0])
    """
    return (
        "import numpy as np\n"
        f"raw = np.zeros({(2, *shape)!r}, np.uint8)  # your examples, as the data set has them\n"
        f"x = (raw - {_array(mean)}) / {_array(std)}"
    )


def _array(values: np.ndarray) -> str:
    """The shortest Python for a float32 vector that may repeat itself, channel by channel."""
    numbers = [float(str(v)) for v in values]
    period = next(p for p in range(1, len(numbers) + 1) if numbers == numbers[:p] * (len(numbers) // p))
    if period == 1:
        return f"np.float32({numbers[0]})"
    few = f"np.float32({numbers[:period]})"
    return few if period == len(numbers) else f"np.tile({few}, {len(numbers) // period})"


def _header(run: Finished, files: Sequence[File]) -> dict[str, Any]:
    name, data_name = run.config.name, run.dataset.name
    active = [applied.method.name for applied in run.plan.applied]
    tags = ["jopt", "jax", *(file.format for file in files), *(_TAGS[kind] for kind in active if kind in _TAGS)]
    if any(method.name == "distill" for stage in run.config.stages for method in stage.methods):
        tags.append("distillation")
    images = run.config.data.layout == "image" and run.dataset.test.inputs.ndim == 4
    found = {key: run.result.get(key) for key in ("accuracy", "loss")}
    measured = {key: value for key, value in found.items() if value is not None and math.isfinite(value)}
    return {
        "library_name": "jopt",
        "tags": list(dict.fromkeys(tags)),
        "datasets": [data_name],
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "image-classification" if images else "other", "name": "classification"},
                        "dataset": {"name": data_name, "type": data_name, "split": "test"},
                        "metrics": [{"type": key, "name": key, "value": v} for key, v in measured.items()],
                    }
                ],
            }
        ],
    }


def _measures(run: Finished) -> Iterator[str]:
    yield "## Measures"
    # What no file has is what the arrays take in memory.
    size = "packed_bytes" if run.config.pack else "dense_bytes"
    numbers = {
        size if key == "bytes" else key: value
        for key, value in run.result.items()
        if key not in ("digest", "wall_seconds", "compile_seconds")
    }
    yield to_markdown(report.result_table(numbers, title=""))
    if stages := run.result.get("stages"):
        yield "Stage by stage:"
        yield to_markdown(report.stages_table(stages, title=""))
    yield (
        "Accuracy and loss are of the test part. FLOPs are those of one example, counted from shapes; the "
        "*theoretical* ones leave out what is multiplied by zero, which no program here does."
    )


def _files(files: Sequence[File], absent: Mapping[str, str]) -> Iterator[str]:
    rows = []
    for file in files:
        cells = (file.name, formats.integer(file.bytes), file.what)
        if (found := file.agreement) is None:
            rows.append((*cells, "-", "-", "-"))
            continue
        same = f"{found.equal_predictions:,} of {found.examples:,}"
        rows.append((*cells, formats.percent(found.accuracy), same, formats.number(found.largest_difference)))
    yield "## Files"
    header = ("file", "bytes", "what", "accuracy", "same class", "largest difference")
    yield to_markdown(Table("", header, "lrlrrr", rows))
    yield (
        "The last columns were measured by running the file itself on the test part: its accuracy, for how many "
        "examples it predicts the class that the run's own evaluation predicts, and the largest difference of two "
        "logits."
    )
    if absent:
        yield "Not here:\n\n" + "\n".join(f"- {escape(name)}: {escape(why)}" for name, why in absent.items())


def _usage(run: Finished, files: Sequence[File]) -> Iterator[str]:
    yield "## Use"
    yield (
        "Inputs are float32, normalized as in training by the mean and standard deviation of the training part. "
        "The code below follows on this, in the directory of the files:"
    )
    yield _code(inputs_code(run.dataset.mean, run.dataset.std, run.dataset.test.inputs.shape[1:]))
    alike: dict[str, list[str]] = {}
    for file in files:
        if file.run:
            alike.setdefault(file.run, []).append(file.name)
    for code, (name, *others) in alike.items():
        also = f" (the same for {', '.join(f'`{other}`' for other in others)})" if others else ""
        yield f"`{name}`{also}:"
        yield _code(code.replace("{name}", name))


def _making(run: Finished, manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "## How it was made"
    if manifest.get("argv"):
        yield _code(shlex.join(command(manifest["argv"])), "sh")
    yield "What was set; everything else is the default:"
    rows = [(path, json.dumps(value)) for path, value in _flat(json.loads(canonical_json(run.config)))]
    yield to_markdown(Table("", ("field", "value"), "ll", rows))
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


def _limits(run: Finished, files: Sequence[File]) -> Iterator[str]:
    examples, used = len(run.dataset.test.labels), {file.format for file in files}
    said = [
        f"One run, with seed {run.config.seed}. Another seed gives another model: to call one method better than "
        "another takes several seeds of both.",
        f"The test part has {examples:,} examples, so one of them is {100 / examples:.2g} percentage points.",
        "Nothing checks that an input is like those of the data set: it gets a class in any case.",
    ]
    if "stablehlo" in used:
        said.append(
            "A StableHLO artefact can be run by versions of jaxlib up to 6 months newer, or 3 weeks older, than "
            "the one that wrote it, which its JSON file names."
        )
    if any(file.name.startswith("shrunk.") for file in files) and run.plan.wrapping:
        said.append(
            "In the shrunk function, a constant that a removed unit left to the next bias is not quantized."
        )
    yield "## Limits"
    yield "\n".join(f"- {sentence}" for sentence in said)


def _code(text: str, language: str = "python") -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries and lists of them, as config paths."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        for i, inner in enumerate(value):
            yield from _flat(inner, f"{path}[{i}]")
    elif value != {}:
        yield path, value
