"""A finished run as files that other programs run or read: the formats, ours and others', and a model card."""

import dataclasses
import importlib.util
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jopt import codec, models, reference
from jopt.codec import MAX_BYTES
from jopt.config import ConfigError
from jopt.data import Dataset
from jopt.export import safetensors, source, speed, stablehlo
from jopt.export.source import Agreement, ExportError, Source, Unavailable
from jopt.files import make_directory, sweep, write_bytes, write_text
from jopt.rules import named_leaves
from jopt.task import Classification, Metric
from jopt.trust import modules_in

CARD = "README.md"
FLOAT_ONNX = "float.onnx"
QUANTIZED_ONNX = ("quantized.onnx", "quantized_qdq.onnx")


class Options(NamedTuple):
    """What the caller asks of all formats.

    Attributes:
      raw_inputs: whether programs take inputs as the data set has them, where their format can.
    """

    raw_inputs: bool = False


class File(NamedTuple):
    """A file that a format wrote, as the model card describes it.

    Attributes:
      name: relative to the directory.
      summary: one line, without a full stop.
      code: Python that runs or reads it, given `x`, a batch of normalized inputs, or `raw`, the same as the data
        set has them, with `{name}` for its name; '' where nobody runs it by itself.
      agreement: how it compares with the model as it was evaluated; None where it was not run.
    """

    name: str
    summary: str
    code: str = ""
    agreement: Agreement | None = None


class Missing(NamedTuple):
    """A file that could have been written and was not, and why."""

    name: str
    reason: str


class Written(NamedTuple):
    """A file that was written.

    Attributes:
      format: the name of its format, or 'card'.
      file: where it is.
      bytes: its length.
      summary: as in `File`.
      code: as in `File`.
      agreement: as in `File`.
    """

    format: str
    file: Path
    bytes: int
    summary: str = ""
    code: str = ""
    agreement: Agreement | None = None


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file that a run can be exported to. Yours is written as ours are.

    Attributes:
      name: what the card and the tables call it.
      write: `(source, directory, options)` writes files and gives a `File` for each, or a `Missing` for one that
        the run has no model for. What it raises ends the export: nothing after it is written, the card included.
      files: the names of all files that it may write.
      needs: the functions of the run that it cannot do without, of `jopt.export.source.NAMES`: where the run lacks
        one, nothing is written, and the card says why. Every run has 'masked'.
      packages: that must be installed, by the names that they are imported by.
      extra: what to `pip install` for them.
    """

    name: str
    write: Callable[[Source, Path, Options], Iterable[File | Missing]]
    files: tuple[str, ...]
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    extra: str = "jopt[export]"


def export(
    run: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    formats: Sequence[str | Format] | None = None,
    *,
    raw_inputs: bool = False,
    model: models.Model | None = None,
    data: Dataset | None = None,
    trusted: bool = False,
    data_dir: str | None = None,
    max_bytes: int = MAX_BYTES,
    speed_batches: Sequence[int] = speed.BATCHES,
    timer: speed.Timer = speed.measure,
) -> list[Written]:
    """Writes a finished run in some formats, and `README.md`, a model card that describes the files.

    | format | files |
    |---|---|
    | packed | `model.jopt`: the run's own, or written now |
    | stablehlo | `masked.stablehlo`; `float`, `shrunk`, `integer` where the run has them; a JSON file beside each |
    | onnx | `float.onnx`; `quantized.onnx`, `quantized_qdq.onnx` of a run that quantizes weights and activations |
    | safetensors | `model.safetensors` |

    What can be run is run on the test part, and compared with the model as it was evaluated; the card has the
    numbers. An ONNX file must also give the outputs of the function that it was made of, or it is not written. A
    function whose program is that of another is not written twice. Quantized ONNX files are timed against the
    float32 one, and the card says which to take; no other file depends on the times.

    Args:
      run: the run's directory.
      directory: where the files go; made, if need be. Files of the same names are replaced, each atomically, and
        temporary ones of these names that a killed export left are removed.
      formats: names of formats, `package.module:name` of a `Format` elsewhere, or `Format`s; None: all of ours.
      raw_inputs: whether the StableHLO artefacts take inputs as the data set has them (images: uint8), and
        normalize them themselves; otherwise they take normalized ones, float32, as all other formats do.
      model: the model that the run was given instead of `config.model`, if it was given one.
      data: the data set that the run was given as an object, if it was given one.
      trusted: lifts the rules for foreign configs (`docs/security.md`).
      data_dir: where the run's data are, instead of where its config says.
      max_bytes: memory that the tensors of the run's packed file may take.
      speed_batches: batch sizes at which quantized ONNX files are timed; none: they are not.
      timer: what times them.

    Returns:
      The files in the order in which they were written, the card last; its summary is the advice on speed, if any.

    Raises:
      ConfigError: for another format, or two that write files of one name.
      ExportError: if no format is given, or a package is missing that a format needs: nothing is written. If the
        run's packed file is another model's, or ONNX Runtime gives other outputs than the model: that file and the
        card are not written.
      WorkdirError: if there is no finished run.
      OSError: if the files cannot be written.
    """
    from jopt.export.card import card

    chosen = [resolve(entry) for entry in dict.fromkeys(FORMATS if formats is None else formats)]
    # All that can be refused is refused before the run is read and a file is written.
    _check(chosen)
    exported = source.load(run, model=model, data=data, trusted=trusted, data_dir=data_dir)
    exported, directory = dataclasses.replace(exported, max_bytes=max_bytes), Path(directory)
    make_directory(directory)
    # The directory may hold files of others, whatever they are called.
    sweep(directory, [CARD, *(name for kind in chosen for name in kind.files)])
    written: list[Written] = []
    missing: list[Missing] = []
    for kind in chosen:
        entries = list(_write(kind, exported, directory, Options(raw_inputs)))
        written += [entry for entry in entries if isinstance(entry, Written)]
        missing += [entry for entry in entries if isinstance(entry, Missing)]
    measured = timed(written, exported.inputs, speed_batches, timer, exported.task.deciding)
    text = card(exported, written, missing, measured)
    write_text(directory / CARD, text)
    summary = "" if measured is None else measured.recommendation
    return [*written, Written("card", directory / CARD, len(text.encode()), summary)]


def timed(
    written: Sequence[Written],
    inputs: np.ndarray,
    batches: Sequence[int],
    timer: speed.Timer,
    metric: Metric = speed.ACCURACY,
) -> speed.Report | None:
    """Times quantized ONNX files against the float32 one; None where there is no quantized one.

    Args:
      written: files that exist.
      inputs: examples for them.
      batches: batch sizes; none: nothing is timed.
      timer: as in `export`.
      metric: that a quantized form must keep.
    """
    forms = {
        entry.file.name: speed.Form(entry.file.name, entry.bytes, entry.agreement.value)
        for entry in written
        if entry.format == ONNX.name and entry.agreement is not None
    }
    floating, quantized = forms.get(FLOAT_ONNX), [forms[name] for name in QUANTIZED_ONNX if name in forms]
    if not quantized:
        return None
    if floating is None:
        return speed.Report(reason=f"there is no {FLOAT_ONNX} to compare with")
    if not batches:
        return speed.Report(reason="that was not asked for")
    files = {entry.file.name: entry.file for entry in written if entry.file.name in forms}
    return speed.report(timer(files, inputs, batches), floating, quantized, metric)


def resolve(entry: str | Format, field: str = "formats") -> Format:
    """A format by its name, or by where it is.

    Args:
      entry: a name of `FORMATS`; `package.module:name`, which is imported; or a `Format`.
      field: what the error calls it.

    Raises:
      ConfigError: if it is none of these.

    Example:
      >>> resolve("packed").files, resolve("jopt.export.formats:SAFETENSORS").name
      (('model.jopt',), 'safetensors')
      >>> resolve("tflite")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: formats must be one of 'packed', 'stablehlo', ..., got 'tflite'
    """
    # Only what has a colon is imported: a misspelled name must not run anybody's module.
    if isinstance(entry, Format):
        return entry
    if entry in _BUILT_IN:
        return _BUILT_IN[entry]
    accepted = f"one of {', '.join(map(repr, FORMATS))}, or package.module:name of a jopt.export.Format"
    if ":" not in entry:
        raise ConfigError(field, entry, accepted)
    try:
        resolved = reference.resolve(entry, field)
    # With the built-in names too: `--format=onx:` may be a misspelt one of them.
    except ConfigError as error:
        raise ConfigError(field, entry, f"{accepted} ({error.accepted})") from error
    if not isinstance(resolved, Format):
        raise ConfigError(field, entry, f"{accepted} (it is of type {type(resolved).__name__})")
    return resolved


def _check(formats: Sequence[Format]) -> None:
    if not formats:
        raise ExportError(f"formats must name at least one of {', '.join(FORMATS)}, got none")
    # Formats write one after the other: the second file of a name would replace the first, and the card be wrong.
    owners: dict[str, str] = {CARD: "card"}
    for kind in formats:
        absent = [package for package in kind.packages if importlib.util.find_spec(package) is None]
        if absent:
            raise ExportError(
                f"formats: {kind.name!r} needs {', '.join(absent)}, not installed here: pip install '{kind.extra}'"
            )
        for name in kind.files:
            if name in owners:
                raise ConfigError("formats", kind.name, f"one that does not write {name}, as {owners[name]!r} does")
            owners[name] = kind.name


def _write(kind: Format, exported: Source, directory: Path, options: Options) -> Iterator[Written | Missing]:
    """The files of one format. That it wrote what it says is checked: the card is no place for a promise."""
    # Built here and again by the format: nothing is compiled before it is called.
    try:
        for need in kind.needs:
            exported.function(need)
    except Unavailable as error:
        yield from (Missing(name, str(error)) for name in kind.files)
        return
    for entry in kind.write(exported, directory, options):
        if isinstance(entry, Missing):
            yield entry
            continue
        path = directory / entry.name
        if entry.name not in kind.files or not path.is_file():
            raise ExportError(
                f"the format {kind.name!r} says that it wrote {entry.name}, which must be a file in {directory} "
                f"and one of its files, {', '.join(kind.files)}"
            )
        yield Written(kind.name, path, path.stat().st_size, *entry[1:])


def _packed(exported: Source, directory: Path, options: Options) -> Iterator[File]:
    del options
    path = directory / exported.workdir.packed.name
    content = exported.packed()
    # The directory may be the run's own: its file is not written again.
    if not (path.exists() and path.samefile(exported.workdir.packed)):
        write_bytes(path, content)
    its_own = exported.given_model is not None
    # Data, tasks and networks of other modules are imported by their names.
    outside = any(not f"{name}.".startswith("jopt.") for name in modules_in(codec.read(path).metadata))
    notes = ["# `model` is the one that the run was given.\n"] * its_own
    notes += ["# The file names modules, which trusted=True imports and so runs.\n"] * outside
    code = (
        f"{''.join(notes)}from jopt.train import packed\n"
        f"model = packed.load('{{name}}'{', model=model' * its_own}{', trusted=True' * outside})\n"
        f"{_result(exported)}, _ = model.model.apply(model.params, model.model_state, x, train=False)\n"
        f"print({_result(exported)}{_decided(exported)})"
    )
    # Read back from the disk: what is compared is what a user has.
    agreement = exported.compare(exported.unpacked(path))
    yield File(path.name, "the packed model, every byte counted", code, agreement)


def _stablehlo(exported: Source, directory: Path, options: Options) -> Iterator[File | Missing]:
    dataset = exported.dataset
    normalization = (dataset.mean, dataset.std) if options.raw_inputs else None
    inputs = jax.tree.map(np.asarray, dataset.test.inputs) if options.raw_inputs else exported.inputs
    example = exported.stored if options.raw_inputs else exported.example
    programs: dict[bytes, str] = {}
    # What was evaluated comes first: the others are left out where they are the same program.
    for name in ("masked", "float", "shrunk", "integer"):
        path = directory / f"{name}.stablehlo"
        try:
            function = exported.function(name)
        except Unavailable as error:
            yield Missing(path.name, str(error))
            continue
        program = stablehlo.lower(function, example, normalization=normalization)
        # Without shared or pruned weights several functions are one: the bytes of the programs tell.
        same = programs.setdefault(program.mlir_module_serialized, name)
        if same != name:
            yield Missing(path.name, f"the same program as {same}.stablehlo")
            continue
        # The exported program is run, not the function that it was made of.
        agreement = exported.compare(program.call, inputs)
        stablehlo.save(
            path,
            program,
            {
                "function": name,
                "what": source.WHAT[name],
                "mean": _numbers(dataset.mean),
                "std": _numbers(dataset.std),
                "test": _compared(agreement, exported.metric.key),
            },
        )
        code = (
            "from jax import export\n"
            "content = open('{name}', 'rb').read()\n"
            "predict = export.deserialize(bytearray(content)).call\n"
            f"print(predict({'raw' if options.raw_inputs else 'x'}){_decided(exported)})"
        )
        yield File(path.name, source.WHAT[name], code, agreement)
        yield File(stablehlo.beside(path).name, f"what {path.name} is, its versions and SHA-256")


def _result(exported: Source) -> str:
    """What code calls the outputs."""
    return "logits" if isinstance(exported.task, Classification) else "outputs"


def _decided(exported: Source) -> str:
    """The end of an expression that makes decisions of outputs, where it is as short as this."""
    return ".argmax(-1)" if isinstance(exported.task, Classification) else ""


def _numbers(moments: PyTree) -> Any:
    """Means or standard deviations for JSON: by path where the inputs are several arrays."""
    lists = {path: np.asarray(values).tolist() for path, values in named_leaves(moments)}
    return lists.get("", lists) or None


def _compared(agreement: Agreement, metric: str) -> dict[str, float | None]:
    """An agreement for JSON."""
    numbers = {name: value for name, value in agreement._asdict().items() if name not in ("value", "decisions")}
    numbers[metric] = agreement.value
    if agreement.equal_predictions is not None and agreement.decisions != agreement.examples:
        numbers["predictions"] = agreement.decisions
    return {key: v if v is not None and math.isfinite(v) else None for key, v in numbers.items()}


def _onnx(exported: Source, directory: Path, options: Options) -> Iterator[File | Missing]:
    from jopt.export import onnx

    del options
    # A model of the caller's own does not say what it computes in: ONNX Runtime will.
    if exported.dtype not in (None, "float32"):
        reason = f"the model computes in {exported.dtype}, for which ONNX Runtime has no operations on CPU"
        yield from (Missing(name, reason) for name in ONNX.files)
        return

    if not isinstance(exported.inputs, np.ndarray):
        reason = f"the inputs are {len(jax.tree.leaves(exported.inputs))} arrays, and ONNX files here take one"
        yield from (Missing(name, reason) for name in ONNX.files)
        return
    dtype = exported.example.dtype

    def plain() -> bytes:
        return onnx.encode(
            *exported.float_parts(),
            exported.input_shape,
            metadata=exported.metadata,
            examples=exported.inputs,
            dtype=dtype,
        )

    def quantized(form: str) -> Callable[[], bytes]:
        def encode() -> bytes:
            model, params, model_state, weights, activations = exported.integer_parts()
            return onnx.encode_quantized(
                *(model, params, model_state, exported.input_shape, weights, activations),
                metadata=exported.metadata,
                form=form,
                examples=exported.inputs,
                dtype=dtype,
            )

        return encode

    summaries = (
        source.WHAT["float"],
        "codes of weights and layers' inputs, in integers where jopt's own are",
        "the same codes in fused kernels, biases rounded",
    )
    encoders = (plain, quantized("integer"), quantized("qdq"))
    for name, summary, encode in zip(ONNX.files, summaries, encoders, strict=True):
        try:
            content = encode()
        # Some models cannot have this form; the form before it has their codes.
        except onnx.CoarseBiasError as error:
            yield Missing(name, str(error))
            continue
        # A wrong graph ends the export. What the run or ONNX lacks is a reason, and goes into the card.
        except onnx.OnnxError as error:
            raise ExportError(f"{name}: {error}") from error
        except (NotImplementedError, ValueError) as error:
            yield Missing(name, str(error))
            continue
        run = onnx.session(content).run
        agreement = exported.compare(lambda x, run=run: run(None, {onnx.INPUT: x})[0])
        write_bytes(directory / name, content)
        code = (
            "import onnxruntime\n"
            "session = onnxruntime.InferenceSession('{name}', providers=['CPUExecutionProvider'])\n"
            f"print(session.run(None, {{{onnx.INPUT!r}: x}})[0]{_decided(exported)})"
        )
        yield File(name, summary, code, agreement)


def _safetensors(exported: Source, directory: Path, options: Options) -> Iterator[File]:
    del options
    (name,) = SAFETENSORS.files
    run = exported.run
    metadata = {"format": "np", **exported.metadata}
    safetensors.save(directory / name, run.params, model_state=run.model_state, metadata=metadata)
    code = (
        "from safetensors.numpy import load_file\n"
        "params = load_file('{name}')\n"
        "print({name: value.shape for name, value in params.items()})"
    )
    yield File(name, "the parameters and the state of the masked model, by name", code)


PACKED = Format("packed", _packed, ("model.jopt",))
STABLEHLO = Format(
    "stablehlo",
    _stablehlo,
    tuple(f"{name}.stablehlo{end}" for name in source.NAMES for end in ("", ".json")),
)
ONNX = Format(
    "onnx",
    _onnx,
    (FLOAT_ONNX, *QUANTIZED_ONNX),
    packages=("jax2onnx", "onnx", "onnxruntime", "onnxscript"),
)
SAFETENSORS = Format("safetensors", _safetensors, ("model.safetensors",), packages=("safetensors",))

_BUILT_IN = {kind.name: kind for kind in (PACKED, STABLEHLO, ONNX, SAFETENSORS)}
FORMATS = tuple(_BUILT_IN)
