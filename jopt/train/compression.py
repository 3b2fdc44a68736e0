"""What acts on a stage's parameters: which methods, since when, in which order, as one ParamTransform."""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from jopt import clip, cluster, layers, models, prune, quantize
from jopt.config import ConfigError
from jopt.layers import Layers
from jopt.quantize.activations import KEY
from jopt.rules import RuleError, path_name
from jopt.train import tied
from jopt.train.config import STAGE, Experiment, network, stage_optimizer
from jopt.transform import ParamTransform, chain, hold

KINDS: dict[str, Any] = {"tie": cluster.tying, "prune": prune, "share": cluster, "quantize": quantize}
"""The fields of a Stage that are ParamTransforms, and the packages that build them."""


class Part(NamedTuple):
    """A method that acts in a stage.

    Attributes:
      kind: the field of Stage.
      config: its value.
      stage: index of the stage that names it. In later ones it is held as it was when that stage ended.
    """

    kind: str
    config: Any
    stage: int

    @property
    def package(self) -> ModuleType:
        """The module with `validate`, `build`, `plan` and `check`."""
        return clip if self.kind == "clip" else KINDS[self.kind]


def acting(config: Experiment, stage: int) -> dict[str, Part]:
    """The methods that act in stage number `stage`, by field of Stage: those of `KINDS`, `clip` and `activations`.

    What a stage imposes stays imposed in those after it, until one names the same method again, releases it, or
    starts another network.
    """
    active: dict[str, Part] = {}
    for index, here in enumerate(config.stages[: stage + 1]):
        if here.model is not None:
            active = {}
        active = {kind: part for kind, part in active.items() if kind not in here.release}
        for kind in (*KINDS, "clip", "activations"):
            if (own := getattr(here, kind)) is not None:
                active[kind] = Part(kind, own, index)
    return active


def parts(config: Experiment, stage: int) -> list[Part]:
    """The ParamTransforms among the methods that act in stage number `stage`, first to last."""
    active = acting(config, stage)
    return [active[kind] for kind in config.order if kind in active]


def plain_model(config: Experiment, stage: int, own: models.Model | None = None) -> models.Model:
    """As `model`, but for the quantization of activations."""
    started = any(s.model is not None for s in config.stages[: stage + 1])
    return models.model(network(config, stage)) if own is None or started else own


def model(config: Experiment, stage: int, own: models.Model | None = None) -> models.Model:
    """The model of stage number `stage`, its activations quantized where they are.

    Args:
      config: the experiment, whose numbers may be traced.
      stage: index of the stage.
      own: a model of the caller's, instead of `config.model`.
    """
    net, part = plain_model(config, stage, own), acting(config, stage).get("activations")
    return net if part is None else quantize.activations(net, part.config)


def layers_of(
    config: Experiment, stage: int, input_shape: tuple[int, ...], own: models.Model | None = None
) -> Layers:
    """What the model of stage number `stage` says about its parameters, by an abstract trace.

    Args:
      config: the experiment.
      stage: index of the stage.
      input_shape: the shape of one example.
      own: a model of the caller's, instead of `config.model`.
    """
    return layers.trace(plain_model(config, stage, own), jax.ShapeDtypeStruct((1, *input_shape), np.float32))


def transform(
    config: Experiment,
    stage: int,
    *,
    begin: int,
    steps: int,
    last_update: int | None = None,
    known: Layers | None = None,
) -> ParamTransform:
    """The ParamTransform of a stage.

    Args:
      config: the experiment, whose numbers may be traced.
      stage: index of the stage.
      begin: the step at which it starts.
      steps: its length.
      last_update: the step of its last update; None: not known.
      known: what its model says about its parameters; None: what their names and shapes say.
    """
    built = _built(config, stage, begin, steps, last_update, known)
    whole = chain(*built)
    places = {part.kind: index for index, part in enumerate(parts(config, stage))}
    if places.get("share", len(built)) < places.get("prune", 0):
        whole = _rejoined(whole, built, places["share"], places["prune"])
    return _beside(KEY, whole) if "activations" in acting(config, stage) else whole


def _built(
    config: Experiment,
    stage: int,
    begin: int,
    steps: int,
    last_update: int | None = None,
    known: Layers | None = None,
) -> list[ParamTransform]:
    """The transforms of `parts`."""
    built = []
    for part in parts(config, stage):
        own = part.config
        if part.kind == "share" and part.stage != stage:
            # It was due in its own stage: the zeros of a later pruning must not wait for that part of this one.
            own = dataclasses.replace(own, begin=0.0)
        more = {"last_update": last_update} if part.kind == "prune" else {}
        one = part.package.build(own, begin=begin, steps=steps, layers=known, **more)
        # A codebook that was chosen is held by itself, and must see which of its weights are pruned later.
        built.append(one if part.stage == stage or part.kind == "share" else hold(one))
    return built


def before(config: Experiment, stage: int, kind: str, states: Any, params: Any, known: Layers | None = None) -> Any:
    """What the method `kind` of a stage is given: the parameters as the methods before it show them.

    Args:
      config: the experiment, of plain Python values.
      stage: index of the stage.
      kind: a field of Stage that is among its `parts`.
      states: the transforms' states.
      params: what the optimizer moves, or its average.
      known: what the stage's model says about its parameters.

    Returns:
      The parameters, without learned ranges of activations among them.
    """
    place = [part.kind for part in parts(config, stage)].index(kind)
    first = chain(*_built(config, stage, 0, 0, known=known)[:place])
    return jax.jit(first.apply)(tuple(states[:place]), bare(params))


def _rejoined(whole: ParamTransform, built: list[ParamTransform], share: int, prune: int) -> ParamTransform:
    """The chain whose codebooks, chosen before the masks, learn in the same update which weights are pruned."""
    before = chain(*built[:share])

    def update(state: Any, params: Any, *, step: Any, key: Any = None, **more: Any) -> Any:
        state = whole.update(state, params, step=step, key=key, **more)
        seen = built[prune].apply(state[prune], before.apply(state[:share], params))
        own = None if key is None else jax.random.fold_in(key, share)
        again = built[share].update(state[share], seen, step=step, key=own)
        return (*state[:share], again, *state[share + 1 :])

    return whole._replace(update=update)


def _beside(key: str, transform: ParamTransform) -> ParamTransform:
    """The transform for trees that hold, under `key`, what it must not know of: learned ranges come and go."""

    def split(tree: Any) -> tuple[Any, dict[str, Any]]:
        if not isinstance(tree, dict) or key not in tree:
            return tree, {}
        return {k: v for k, v in tree.items() if k != key}, {key: tree[key]}

    def around(change: Callable[[Any, Any], Any] | None) -> Any:
        if change is None:
            return None

        def changed(state: Any, tree: Any) -> Any:
            tree, ranges = split(tree)
            tree = change(state, tree)
            return {**tree, **ranges} if ranges else tree

        return changed

    def update(state: Any, params: Any, *, grads: Any = None, **more: Any) -> Any:
        return transform.update(state, split(params)[0], grads=split(grads)[0], **more)

    observe, storage = transform.observe, transform.storage
    return transform._replace(
        init=lambda params: transform.init(split(params)[0]),
        update=update,
        apply=around(transform.apply),
        project=around(transform.project),
        forward=around(transform.forward),
        observe=None if observe is None else lambda s, params, g: observe(s, split(params)[0], split(g)[0]),
        storage=None if storage is None else lambda s, params: storage(s, split(params)[0]),
    )


def bare(tree: Any) -> Any:
    """Parameters without the learned ranges of activations among them."""
    return {k: v for k, v in tree.items() if k != KEY} if isinstance(tree, dict) else tree


def beside(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function of parameters that learned ranges of activations pass by."""

    def changed(tree: Any) -> Any:
        if not isinstance(tree, dict) or KEY not in tree:
            return change(tree)
        return {**change(bare(tree)), KEY: tree[KEY]}

    return changed


def with_ranges(tree: Any, of: Any) -> Any:
    """Parameters or model state, with the ranges of activations that `of` has, if it has any.

    Example:
      >>> with_ranges({"Dense_0": 1, "activation_ranges": 0}, {"Dense_0": 2, "activation_ranges": 7})
      {'Dense_0': 1, 'activation_ranges': 7}
    """
    return {**tree, KEY: of[KEY]} if isinstance(of, dict) and KEY in of else tree


def updates(config: Experiment, stage: int) -> bool:
    """Whether something is chosen or measured between the segments of a stage."""
    here = config.stages[stage]
    own = any(part.stage == stage for part in acting(config, stage).values() if part.kind != "clip")
    return own or here.recalibrate > 0


def teaches(config: Experiment, stage: int) -> bool:
    """Whether a teacher must compute along with the student: its inputs vary, or its layers are wanted."""
    lesson = config.stages[stage].distill
    varied = config.data.shift or config.data.flip or config.data.crop_padding
    return lesson is not None and bool(lesson.features or varied)


def carried(config: Experiment, stage: int, fresh: Any, before: Any) -> Any:
    """The transform's state at the start of a stage, given a fresh one and the one that the stage before ended in.

    A method that is held keeps its state; pruning that is named again goes on from the masks that there are.
    """
    old = {part.kind: (part, state) for part, state in zip(parts(config, stage - 1), before, strict=True)}
    out = []
    for part, state in zip(parts(config, stage), fresh, strict=True):
        if part.kind in old and config.stages[stage].model is None:
            then, kept = old[part.kind]
            if then.stage == part.stage:
                state = kept
            elif part.kind == "prune":
                state = _go_on(config.stages[stage].name, state, kept)
        out.append(state)
    return tuple(out)


def _go_on(stage: str, fresh: prune.PruneState, kept: prune.PruneState) -> prune.PruneState:
    """Pruning that starts anew from the masks that there are."""

    def mask(path: Any, new: Any, old: Any) -> Any:
        if new is None and old is not None:
            name = path_name(path)
            raise RuleError(
                f"stage {stage!r} prunes anew but leaves {name} alone, which was pruned before; give it a rule, or "
                "release 'prune' in a stage before"
            )
        return new if old is None else old

    masks = jax.tree_util.tree_map_with_path(mask, fresh.masks, kept.masks, is_leaf=lambda x: x is None)
    return fresh._replace(masks=masks)


def directories(config: Experiment) -> list[tuple[str, str]]:
    """The run directories that stages learn from or take parameters from: `(field, directory)`."""
    found = []
    for index, stage in enumerate(config.stages):
        if stage.distill is not None:
            found.append((f"stages[{index}].distill.teacher", stage.distill.teacher))
        if stage.transfer is not None:
            found.append((f"stages[{index}].transfer.source", stage.transfer.source))
    return [(field, name) for field, name in found if not name.startswith(STAGE)]


def imposed(config: Experiment, stage: int) -> list[Part]:
    """The methods that the parameters show in stage number `stage`: `parts`, and clipping."""
    active = acting(config, stage)
    return parts(config, stage) + [active[kind] for kind in ("clip",) if kind in active]


def describe(config: Experiment, stage: int, params: Any, known: Layers | None = None) -> list[tuple[str, ...]]:
    """A row for each parameter: its path, its shape, its role, and what each of `parts` makes of it.

    Raises:
      ConfigError, RuleError, ValueError: naming the field, where a method cannot have these parameters.
    """
    whole = params
    params = bare(params)
    columns = []
    for part in imposed(config, stage):
        try:
            columns.append(part.package.plan(part.config, params, known))
        except ConfigError:
            raise
        except ValueError as error:
            raise type(error)(f"stages[{part.stage}].{part.kind}: {error}") from error
    if (tie := acting(config, stage).get("tie")) is not None:
        field = f"stages[{stage}].optimizer" if config.stages[stage].optimizer else "optimizer"
        said = tied.said_by_optimizer(stage_optimizer(config, stage), field, whole) + [
            tied.Said(
                f"stages[{part.stage}].{part.kind}.rules", part.config.rules, {row.path: row.what for row in rows}
            )
            for part, rows in zip(imposed(config, stage), columns, strict=True)
            if part.kind != "tie"
        ]
        tied.check(tie.config.groups, params, said)
    return [
        (rows[0].path, "x".join(map(str, rows[0].shape)) or "scalar", rows[0].role, *(row.what for row in rows))
        for rows in zip(*columns, strict=True)
    ]


def describe_activations(
    config: Experiment, stage: int, input_shape: tuple[int, ...], own: models.Model | None
) -> list[tuple[str, ...]]:
    """A row for each layer whose inputs a stage quantizes: its path, the shape of an input, and the code."""
    part = acting(config, stage).get("activations")
    if part is None:
        return []
    x = jax.ShapeDtypeStruct((1, *input_shape), np.float32)
    rows = quantize.plan_activations(part.config, plain_model(config, stage, own), x)
    return [(row.path, "x".join(map(str, row.shape)), row.what) for row in rows]


def violations(config: Experiment, stage: int, state: Any, seen: Any, known: Layers | None = None) -> list[str]:
    """A sentence for each thing that a stage should hold and does not, given what the model sees at its end."""
    host_state, host_seen = jax.device_get((state, seen))
    host_seen = bare(host_seen)
    return [
        f"{part.kind}: {sentence}"
        for part, own in zip(parts(config, stage), host_state, strict=True)
        for sentence in part.package.check(part.config, own, host_seen, known)
    ]
