"""A finished run as files that other programs run or read, with a model card beside them."""

import importlib.util
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jopt import models
from jopt.config import choice
from jopt.export import functions, safetensors, stablehlo
from jopt.export.card import File, card
from jopt.files import write_bytes, write_text
from jopt.train import finished, packed
from jopt.train.config import Experiment
from jopt.train.finished import Finished
from jopt.train.plan import final_network
from jopt.train.state import digest
from jopt.train.workdir import Workdir
from jopt.transform import ParamTransform

FORMATS = ("packed", "stablehlo", "onnx", "safetensors")
CARD = "README.md"
_NEEDS = {"onnx": ("jax2onnx", "onnx", "onnxruntime"), "safetensors": ("safetensors",)}


class Written(NamedTuple):
    """A file that was written.

    Attributes:
      format: one of `FORMATS`, or 'card'.
      file: where it is.
      bytes: its length.
    """

    format: str
    file: Path
    bytes: int


class ExportError(ValueError):
    """An export cannot be done: the file that it names was not written, nor those after it."""


class _Source(NamedTuple):
    """What the formats are written from."""

    run: Finished
    own: models.Model | None  # that it was given.
    files: Workdir
    directory: Path
    inputs: np.ndarray  # of the test part, normalized.
    logits: np.ndarray  # of the model as it was evaluated.
    raw: bool


def export(
    run: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    formats: Sequence[str] = FORMATS,
    *,
    raw_inputs: bool = False,
    model: models.Model | None = None,
    transform: Callable[[Experiment, int], ParamTransform] | None = None,
) -> list[Written]:
    """Writes a finished run in some formats, and `README.md`, a model card that tells of them.

    | format | files |
    |---|---|
    | packed | `model.jopt`: the run's own, or written now |
    | stablehlo | `masked.stablehlo`; `float`, `shrunk`, `integer` where the run has them; a JSON file beside each |
    | onnx | `float.onnx`, and `quantized.onnx` of a run that quantizes weights and activations |
    | safetensors | `model.safetensors` |

    What can be run is run on the test part, and compared with the model as it was evaluated; the card has the
    numbers. An ONNX file must also give the logits of the function that it was made of, or it is not written. A
    function whose program is that of another is not written twice.

    Args:
      run: the run's directory.
      directory: where the files go; made, if need be. Files of the same names are replaced, each atomically.
      formats: some of 'packed', 'stablehlo', 'onnx', 'safetensors'.
      raw_inputs: whether the StableHLO artefacts take inputs as the data set has them, uint8, and normalize them
        themselves; otherwise they take normalized ones, float32, as all other formats do.
      model: the model that the run was given instead of `config.model`, if it was given one.
      transform: the transform that it was given, if it was given one.

    Returns:
      The files in the order in which they were written, the card last.

    Raises:
      ConfigError: for another format.
      ExportError: if no format is given, or a package is missing that a format needs: nothing is written. If the
        run's packed file is another model's, or ONNX Runtime gives other logits than the model: that file and the
        card are not written.
      WorkdirError: if there is no finished run.
      OSError: if the files cannot be written.
    """
    for name in formats:
        choice("formats", name, FORMATS)
    if not formats:
        raise ExportError(f"formats must name at least one of {', '.join(FORMATS)}, got none")
    _check_installed(formats)
    found, files = finished.load(run, model=model, transform=transform), Workdir(run)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    inputs = functions.normalized_test(found)
    expected = _logits(functions.function(found, "masked"), inputs)
    source = _Source(found, model, files, directory, inputs, expected, raw_inputs)
    written: list[File] = []
    absent: dict[str, str] = {}
    for name in dict.fromkeys(formats):
        written += _WRITERS[name](source, absent)
    text = card(found, files.load_json(files.manifest), written, absent)
    write_text(directory / CARD, text)
    out = [Written(file.format, directory / file.name, file.bytes) for file in written]
    return [*out, Written("card", directory / CARD, len(text.encode()))]


def _check_installed(formats: Sequence[str]) -> None:
    for name in formats:
        missing = [package for package in _NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise ExportError(
                f"formats: {name!r} needs {', '.join(missing)}, not installed here: pip install 'jopt[export]'"
            )


def _logits(function: functions.Forward, inputs: np.ndarray) -> np.ndarray:
    return functions.logits(jax.jit(function), inputs)


def _packed(source: _Source, absent: dict[str, str]) -> Iterator[File]:
    del absent
    path = source.directory / source.files.packed.name
    kept = source.files.packed
    if not kept.is_file():
        packed.save(path, packed.of(source.run))
    else:
        held = packed.load(kept, model=source.own)
        if _digest(held) != _digest(source.run):
            raise ExportError(f"{kept} is not the packed model of this run: its parameters are others")
        if not (path.exists() and path.samefile(kept)):
            write_bytes(path, kept.read_bytes())
    given = "" if source.own is None else ", model=model"
    code = (
        f"{'# `model` is the one that the run was given.' * bool(given)}\n".lstrip()
        + "from jopt.train import packed\n"
        f"model = packed.load('{{name}}'{given})\n"
        "logits, _ = model.model.apply(model.params, model.model_state, x, train=False)\n"
        "print(logits.argmax(-1))"
    )
    run = packed.load(path, model=source.own)
    logits = _logits(lambda x: run.model.apply(run.params, run.model_state, x, train=False)[0], source.inputs)
    found = functions.agreement(source.run, source.logits, logits)
    yield File(path.name, "packed", path.stat().st_size, "the packed model, every byte counted", code, found)


def _digest(model: Finished | packed.PackedModel) -> str:
    return digest({"params": model.params, "model_state": model.model_state})


def _stablehlo(source: _Source, absent: dict[str, str]) -> Iterator[File]:
    dataset = source.run.dataset
    normalization = (dataset.mean, dataset.std) if source.raw else None
    inputs = np.asarray(dataset.test.inputs) if source.raw else source.inputs
    programs: dict[bytes, str] = {}
    # What was evaluated comes first: the others are left out where they are the same program.
    for name in ("masked", "float", "shrunk", "integer"):
        file = f"{name}.stablehlo"
        try:
            function = functions.function(source.run, name)
        except functions.Unavailable as error:
            absent[file] = str(error)
            continue
        exported = stablehlo.lower(function, source.inputs.shape[1:], normalization=normalization)
        same = programs.setdefault(exported.mlir_module_serialized, name)
        if same != name:
            absent[file] = f"the same program as {same}.stablehlo"
            continue
        path = source.directory / file
        found = functions.agreement(source.run, source.logits, functions.logits(exported.call, inputs))
        said = stablehlo.save(
            path,
            exported,
            {
                "function": name,
                "what": functions.WHAT[name],
                "mean": [float(v) for v in dataset.mean],
                "std": [float(v) for v in dataset.std],
                "test": {key: v if math.isfinite(v) else None for key, v in found._asdict().items()},
            },
        )
        code = (
            "from jax import export\n"
            "content = open('{name}', 'rb').read()\n"
            "predict = export.deserialize(bytearray(content)).call\n"
            f"print(predict({'raw' if source.raw else 'x'}).argmax(-1))"
        )
        yield File(file, "stablehlo", said["bytes"], functions.WHAT[name], code, found)
        beside = stablehlo.beside(path)
        yield File(beside.name, "stablehlo", beside.stat().st_size, f"what {file} is, its versions and SHA-256")


def _onnx(source: _Source, absent: dict[str, str]) -> Iterator[File]:
    from jopt.export import onnx

    shape, run = source.inputs.shape[1:], source.run
    metadata = {"library": "jopt", "name": run.config.name, "digest": str(run.result["digest"])}
    dtype = final_network(run.config).dtype
    if source.own is None and dtype != "float32":
        reason = f"the model computes in {dtype}, for which ONNX Runtime has no operations on CPU"
        absent |= dict.fromkeys(("float.onnx", "quantized.onnx"), reason)
        return

    def plain() -> bytes:
        return onnx.encode(*functions.float_parts(run), shape, metadata=metadata, examples=source.inputs)

    def quantized() -> bytes:
        model, params, model_state, weights, activations = functions.integer_parts(run)
        return onnx.encode_quantized(
            *(model, params, model_state, shape, weights, activations), metadata=metadata, examples=source.inputs
        )

    for name, what, encode in (
        ("float.onnx", functions.WHAT["float"], plain),
        ("quantized.onnx", "codes of weights and layers' inputs, in integers where jopt's own are", quantized),
    ):
        try:
            content = encode()
        except onnx.OnnxError as error:
            raise ExportError(f"{name}: {error}") from error
        except (NotImplementedError, ValueError) as error:
            absent[name] = str(error)
            continue
        session = onnx.session(content)
        logits = functions.logits(lambda x, run=session.run: run(None, {onnx.INPUT: x})[0], source.inputs)
        write_bytes(source.directory / name, content)
        code = (
            "import onnxruntime\n"
            "session = onnxruntime.InferenceSession('{name}', providers=['CPUExecutionProvider'])\n"
            f"print(session.run(None, {{{onnx.INPUT!r}: x}})[0].argmax(-1))"
        )
        yield File(name, "onnx", len(content), what, code, functions.agreement(run, source.logits, logits))


def _safetensors(source: _Source, absent: dict[str, str]) -> Iterator[File]:
    del absent
    name = "model.safetensors"
    size = safetensors.save(
        source.directory / name,
        source.run.params,
        model_state=source.run.model_state,
        metadata={
            "format": "np",
            "library": "jopt",
            "name": source.run.config.name,
            "digest": str(source.run.result["digest"]),
        },
    )
    code = (
        "from safetensors.numpy import load_file\n"
        "params = load_file('{name}')\n"
        "print({name: value.shape for name, value in params.items()})"
    )
    yield File(name, "safetensors", size, "the parameters and the state of the masked model, by name", code)


_WRITERS: Mapping[str, Callable[[_Source, dict[str, str]], Iterator[File]]] = {
    "packed": _packed,
    "stablehlo": _stablehlo,
    "onnx": _onnx,
    "safetensors": _safetensors,
}
