"""The packed model of a run, `model.jopt`: the network, its parameters and what its inputs are normalized with.

Parameters that are quantized are stored as integers; what these are is found here too.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from jopt import codec, data, measure, models, quantize
from jopt.codec import Ledger
from jopt.config import CLASS, ConfigError, changed, decode, from_dict
from jopt.levels import quick_jit
from jopt.method import Method
from jopt.quantize.integer import QTensor
from jopt.quantize.tensors import of_values
from jopt.reference import name_of
from jopt.rules import named_leaves
from jopt.task import Classification, Task
from jopt.train.config import Experiment
from jopt.train.plan import StagePlan, trainables_key
from jopt.train.state import TrainState, evaluated
from jopt.transform import Params, State, Storage, chain, see
from jopt.typing import ModelState

if TYPE_CHECKING:
    from jopt.train.finished import Finished

# What changes the inputs in training only.
_AUGMENTATION = ("shift", "crop_padding", "flip", "augmentation", "residency")
_CLASSIFIER = {CLASS: "jopt.task:Classification"}


class PackedError(ValueError):
    """A packed file holds arrays, but not a network that was trained here."""


class PackedModel(NamedTuple):
    """A network, rebuilt from its packed file alone.

    Attributes:
      name: the experiment's.
      network: the model's config; None where the run was given a custom model.
      data: the data set's config, without paths and augmentation.
      task: how its outputs meet targets.
      plain_model: its functions, before methods wrap them.
      wrapping: the methods that wrap it: those that quantize its layers' inputs, say.
      model: its functions, as these methods make it compute.
      params: what they compute with, NumPy arrays.
      model_state: batch statistics, ranges of activations and the like.
      integers: path to the integers behind a parameter that is held as such.
      mean, std: what its inputs are normalized with, as `jopt.data.Dataset` has them.
      stored: the inputs of one example as they are stored, before normalization: shapes and dtypes.
      output_shape: of its outputs for one example.
      ledger: where the file's bytes go.
      metadata: the file's metadata as they are.
    """

    name: str
    network: models.Network | None
    data: data.Source
    task: Task
    plain_model: models.Model
    wrapping: tuple[Method, ...]
    model: models.Model
    params: Params
    model_state: ModelState
    integers: dict[str, QTensor]
    mean: PyTree
    std: PyTree
    stored: PyTree
    output_shape: tuple[int, ...]
    ledger: Ledger
    metadata: Mapping[str, Any]

    @property
    def example(self) -> PyTree:
        """The inputs of one example as the network sees them: shapes and dtypes."""
        return data.example_of(data.batch_of(self.stored), self.mean)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example's inputs, where they are one array."""
        return self.stored.shape

    @property
    def num_classes(self) -> int:
        """The width of the outputs: of a classifier, the number of classes."""
        return self.output_shape[-1] if self.output_shape else 1


class Packing(NamedTuple):
    """What goes into the packed file of a stage.

    Attributes:
      config: the experiment.
      plan: the stage.
      params: what the model computes with, NumPy arrays.
      model_state: batch statistics and the like.
      dataset: what it was trained on.
      formats: how quantized parameters are stored as integers; the other values are stored as they are.
    """

    config: Experiment
    plan: StagePlan
    params: Params
    model_state: ModelState
    dataset: data.Dataset
    formats: Mapping[str, Storage] = {}


def encode(packing: Packing) -> codec.Packed:
    """The packed file of a stage, as bytes with their ledger."""
    return codec.encode(packing.params, **_options(packing))


def save(path: str | os.PathLike[str], packing: Packing) -> Ledger:
    """Writes the packed file of a stage, atomically.

    Returns:
      The file's ledger.

    Raises:
      OSError: if it cannot be written.
    """
    return codec.save(path, packing.params, **_options(packing))


def packing_of(run: Finished) -> Packing:
    """What the packed file of a finished run holds, also where its config asked for none."""
    formats = storage(run.plan, run.state)
    return Packing(run.config, run.plan, run.params, run.model_state, run.dataset, formats)


def _options(packing: Packing) -> dict[str, Any]:
    return {"model_state": packing.model_state, "storage": packing.formats, "metadata": metadata(packing)}


def metadata(packing: Packing) -> dict[str, Any]:
    """The metadata of a packed file: only what is needed to rebuild the network, as every byte counts.

    Configs are held by the fields that differ from their defaults.

    Returns:
      A dictionary for JSON: `name`, `model` (absent for a custom model), `data`, `task` (absent for a classifier),
      `input`, `classes`, `mean`, `std` (of images and other vectors of numbers) or `inputs` and `outputs` (of
      anything else), and `activations` where they are quantized.
    """
    config, plan, dataset = packing.config, packing.plan, packing.dataset
    described = {"name": config.name, "data": _describe(config.data, data.Digits)}
    if type(plan.task) is not Classification:
        described["task"] = _describe(config.task, Task)
    if isinstance(dataset.train.inputs, np.ndarray) and dataset.mean is not None and "task" not in described:
        described |= {
            "input": list(dataset.train.inputs.shape[1:]),
            "classes": dataset.num_classes,
            "mean": _numbers(dataset.mean),
            "std": _numbers(dataset.std),
        }
    else:
        described |= describe_inputs(dataset)
        described["outputs"] = list(
            _output_shape(plan.wrapped, packing.params, packing.model_state, dataset.example)
        )
    if plan.network is not None:
        described["model"] = _describe(plan.network, models.ModelConfig)
    if plan.wrapping:
        described["activations"] = [_describe_method(applied.method) for applied in plan.wrapping]
    return described


def _describe(config: Any, default: type) -> dict[str, Any]:
    """A config's class, unless it is the default one, and the fields that differ from their defaults.

    Where data lie and how they are augmented is not needed to use a network, and paths may be private.
    """
    left_out = (*_AUGMENTATION, *config.PATHS) if isinstance(config, data.Source) else ()
    tag = {} if type(config) is default else {CLASS: name_of(type(config))}
    return {**tag, **{name: value for name, value in changed(config).items() if name not in left_out}}


def describe_inputs(dataset: data.Dataset) -> dict[str, Any]:
    """Shapes, dtypes and normalization of each array of the inputs, by path."""
    leaves, means, stds = (dict(named_leaves(tree)) for tree in (dataset.train.inputs, dataset.mean, dataset.std))
    described = {}
    for path, array in leaves.items():
        described[path] = {"shape": list(array.shape[1:]), "dtype": str(array.dtype)}
        if path in means:
            described[path] |= {"mean": _nested(means[path]), "std": _nested(stds[path])}
    sequences = dict(_sequences(dataset.train.inputs))
    return {"inputs": described, **({"sequences": sequences} if sequences else {})}


def _sequences(tree: PyTree, path: str = "") -> Iterator[tuple[str, str]]:
    """The paths of the tuples and lists of a tree, innermost first, which look like dictionaries by their paths."""
    ordered = type(tree) in (tuple, list)
    items = enumerate(tree) if ordered else tree.items() if isinstance(tree, dict) else ()
    for key, inner in items:
        yield from _sequences(inner, f"{path}/{key}" if path else str(key))
    if ordered:
        yield path, type(tree).__name__


def _output_shape(model: models.Model, params: Params, model_state: ModelState, example: PyTree) -> tuple[int, ...]:
    """Of the outputs for one example, by shapes alone."""
    # All as arguments: a model may look up rows of its parameters, which arrays of NumPy do not let a trace do.
    apply = functools.partial(model.apply, train=False)
    return jax.eval_shape(lambda *a: apply(*a)[0], params, model_state, data.batch_of(example)).shape[1:]


def _nested(values: np.ndarray) -> Any:
    return _numbers(values) if values.ndim else _numbers(values.reshape(1))[0]


def _inputs_of(metadata: Mapping[str, Any]) -> tuple[PyTree, PyTree, PyTree]:
    """Shapes of an example's inputs as they are stored, means and standard deviations."""
    if "inputs" not in metadata:
        shape = tuple(int(n) for n in metadata["input"])
        return jax.ShapeDtypeStruct(shape, np.uint8), _float32(metadata["mean"]), _float32(metadata["std"])
    trees: tuple[dict[str, Any], ...] = ({}, {}, {})
    for path, leaf in metadata["inputs"].items():
        shape = tuple(int(n) for n in leaf["shape"])
        values = (
            jax.ShapeDtypeStruct(shape, np.dtype(leaf["dtype"])),
            *(_float32(leaf[name]) if name in leaf else None for name in ("mean", "std")),
        )
        for tree, value in zip(trees, values, strict=True):
            _insert(tree, path.split("/"), value)
    sequences = metadata.get("sequences", {})
    stored, mean, std = (_ordered(tree, sequences) for tree in (tree.get("", tree) for tree in trees))
    return stored, mean, std


def _ordered(tree: PyTree, sequences: Mapping[str, str], path: str = "") -> PyTree:
    """The tree with tuples and lists in the place of the dictionaries at these paths."""
    if not isinstance(tree, dict):
        return tree
    inner = {key: _ordered(value, sequences, f"{path}/{key}" if path else key) for key, value in tree.items()}
    if path not in sequences:
        return inner
    elements = [inner[str(i)] for i in range(len(inner))]
    return elements if sequences[path] == "list" else tuple(elements)


def _insert(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def _describe_method(method: Method) -> dict[str, Any]:
    """A method's class, unless it is the most frequent one, and the fields that differ from their defaults."""
    tag = {} if type(method) is quantize.Activations else {CLASS: name_of(type(method))}
    return {**tag, **changed(method)}


def load(
    path: str | os.PathLike[str],
    *,
    model: models.Model | None = None,
    trusted: bool = False,
    max_bytes: int = codec.MAX_BYTES,
) -> PackedModel:
    """Rebuilds a network from its packed file.

    Args:
      path: of the file.
      model: the model that the run was given instead of `config.model`, if it was given one.
      trusted: whether modules that the file names for its methods may be imported, and so run.
      max_bytes: as for `jopt.codec.read`.

    Raises:
      OSError: if the file cannot be read.
      CodecError: if it is damaged.
      PackedError: if it is whole, but holds no network of a run.
    """
    file = codec.read(path, max_bytes=max_bytes)
    try:
        return _rebuild(file, model, trusted)
    except (ConfigError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        # A file is untrusted input: whatever its metadata make our code raise is one kind of error for the caller.
        if isinstance(error, PackedError):
            raise PackedError(f"{os.fspath(path)}: {error}") from error
        reason = f"has no {error}" if isinstance(error, KeyError) else f"says: {error}"
        raise PackedError(
            f"{os.fspath(path)} holds arrays, but no network as a run of jopt packs it: its metadata {reason}"
        ) from error


def _rebuild(file: codec.File, custom_model: models.Model | None, trusted: bool) -> PackedModel:
    metadata: Any = {} if file.metadata is None else file.metadata
    if not isinstance(metadata, dict):
        raise TypeError(f"they must be an object, got {type(metadata).__name__}")
    named = metadata.get("model")
    network = None if named is None else decode(named, models.ModelConfig | models.Network, "model", trusted)
    # Without a network's config, metadata of ours still have its inputs: that tells a custom model from a foreign
    # file.
    if network is None and custom_model is None:
        if metadata.keys().isdisjoint({"input", "inputs"}):
            raise KeyError("model")
        raise PackedError("the run was given a custom model: give it here too")
    if network is not None:
        network.validate()
    plain = network.model() if network is not None else custom_model
    assert plain is not None
    model, wrapping = plain, wrapping_methods(metadata.get("activations"), trusted)
    keys = {trainables_key(method) for method in wrapping}
    # Frozen, as ranges come from the file and nothing trains here.
    for method in wrapping:
        model = method.wrap(model, frozen=True)
    stored, mean, std = _inputs_of(metadata)
    # Of one number each example, the outputs' shape is empty.
    outputs = metadata["outputs"] if "outputs" in metadata else [metadata["classes"]]
    rebuilt = PackedModel(
        name=str(metadata["name"]),
        network=network,
        data=decode(metadata["data"], data.Source, "data", trusted),
        task=decode(metadata.get("task", _CLASSIFIER), Task, "task", trusted).resolved(),
        plain_model=plain,
        wrapping=wrapping,
        model=model,
        params=file.params,
        model_state=file.model_state,
        integers={path: _tensor(q) for path, q in file.integers.items() if path.split("/")[0] not in keys},
        mean=mean,
        std=std,
        stored=stored,
        output_shape=tuple(int(n) for n in outputs),
        ledger=file.ledger,
        metadata=metadata,
    )
    _check(rebuilt)
    return rebuilt


def wrapping_methods(described: Any, trusted: bool = False) -> tuple[Method, ...]:
    """The methods that wrap a packed network, from its metadata: of this version, or of the first.

    Example:
      >>> wrapping_methods({"method": "lsq", "bits": 4})[0].bits
      4
    """
    if described is None:
        return ()
    # The first version of the format had a single activation quantizer, without a class.
    if isinstance(described, Mapping):
        return (quantize.activations_from_metadata(described),)
    holder = [{CLASS: "jopt.quantize:Activations", **fields} for fields in described]
    methods = from_dict(_Wrapping, {"methods": holder}, trusted=trusted).methods
    for method in methods:
        method.validate(method.name)
    return methods


@dataclasses.dataclass(frozen=True)
class _Wrapping:
    methods: tuple[Method, ...] = ()


def _check(packed: PackedModel) -> None:
    """Raises unless the file normalizes its own inputs, and the model takes its parameters."""
    inputs = dict(named_leaves(packed.stored))
    for name, moments in (("mean", packed.mean), ("std", packed.std)):
        for path, values in named_leaves(moments):
            channels = inputs[path].shape[-1:]
            if values.shape != channels or not np.isfinite(values).all() or not (name == "mean" or values.all()):
                raise PackedError(
                    f"its metadata must have finite numbers of shape {channels} as {name}, one a channel, and no "
                    f"std of 0; got {values.size} numbers of shape {values.shape}"
                )
    # By shapes alone: it costs no memory and finds every parameter that is absent or of another shape.
    try:
        shape = _output_shape(packed.model, packed.params, packed.model_state, packed.example)
    except Exception as error:
        raise PackedError(f"the network that its metadata name does not take its parameters: {error}") from error
    if shape != packed.output_shape:
        raise PackedError(f"the network gives outputs {shape}, its metadata say {packed.output_shape}")


def _tensor(q: codec.Integers) -> QTensor:
    spec = quantize.Spec(q.spec.bits, q.spec.symmetric, q.spec.axis, q.spec.narrow, q.spec.group)
    codes, scale, zero_point, low, high = jax.tree.map(jnp.asarray, (q.codes, q.scale, q.zero_point, q.low, q.high))
    return QTensor(codes, scale, zero_point, spec, None if low is None else quantize.Range(low, high))


def _float32(values: Any) -> np.ndarray:
    # A number of the file that is too large becomes infinite, which `_check` refuses.
    with np.errstate(over="ignore"):
        return np.array(values, np.float32)


def _numbers(values: np.ndarray) -> list[float]:
    """The shortest decimal numbers that round to these float32s."""
    # `float(v)` would write the float64 digits of a float32, twice as many bytes in the file.
    return [float(str(v)) for v in values]


def storage(plan: StagePlan, state: TrainState) -> dict[str, Storage]:
    """How the quantized parameters are stored as integers at the end of a stage, as its transform says.

    Args:
      plan: the stage, of plain Python values.
      state: the state that it ended in.

    Returns:
      Path to `Storage`, its range of NumPy arrays; parameters that are not quantized are absent.
    """
    if plan.transform.storage is None:
        return {}
    # Only the transforms know which grid a value was put on; searching for one that fits would guess.
    storage, specs = plan.transform.storage, {}

    def ranges(transform_state: State, params: Params) -> dict[str, quantize.Range]:
        formats = storage(transform_state, params)
        # A program gives arrays alone; a Spec is known while it is traced.
        specs.update({path: spec for path, (spec, _) in formats.items()})
        return {path: range for path, (_, range) in formats.items()}

    def is_traced() -> bool:
        return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(list(specs.values())))

    arrays = state.transform_state, evaluated(state).params
    # One program, in the place of dozens of one operation. A transform from outside may need numbers where it has
    # none: it was promised concrete arrays.
    try:
        computed = quick_jit(ranges)(*arrays)
    except jax.errors.JAXTypeError:
        computed = None
    if computed is None or is_traced():
        computed = ranges(*arrays)
    computed = jax.device_get(computed)
    return {path: Storage(specs[path], range) for path, range in computed.items()}


def integers(plan: StagePlan, formats: Mapping[str, Storage], seen: Params) -> dict[str, QTensor]:
    """The integers of what the model sees, path by path: codes, scales, zero points, for integer execution.

    Args:
      plan: the stage.
      formats: what `storage` gave.
      seen: what the model computes with.

    Returns:
      A `QTensor` for each parameter whose values are, to the bit, what its integers stand for.
    """
    return of_values(dict(formats), plan.trainables.model_only(seen))


def grids(formats: Mapping[str, Storage]) -> dict[str, measure.IntegerCode]:
    """How the integers of each quantized parameter would be held, for its theoretical size."""
    sizes = {path: (spec, int(np.size(range.low))) for path, (spec, range) in formats.items()}
    return {
        path: measure.IntegerCode(int(spec.bits), scales, 0 if spec.symmetric else scales)
        for path, (spec, scales) in sizes.items()
        # An identity has no codes: such a parameter is stored as floats.
        if not spec.is_identity
    }


def seen_before(plan: StagePlan, name: str, states: tuple[State, ...], params: Params) -> Params:
    """What the method `name` of a stage is given: the parameters as the methods before it show them.

    Args:
      plan: the stage, of plain Python values.
      name: of a method that has a transform in the stage.
      states: the transforms' states.
      params: what the optimizer moves, or its average.

    Returns:
      The model's parameters, without the methods' own trainables.
    """
    # A quantizer's integers are of the masked, shared values that it was given, not of the optimizer's parameters.
    position = [applied.method.name for applied, _ in plan.transforms].index(name)
    first = chain(*(transform for _, transform in plan.transforms[:position]))
    learned = plan.trainables.learned_values(params)[:position]
    model_params = plan.trainables.model_only(params)
    return jax.jit(lambda s, p, v: see(first, s, p, v))(tuple(states[:position]), model_params, learned)
