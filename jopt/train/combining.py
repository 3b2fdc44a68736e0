"""Which methods go together: what a config's stages may ask for, of each method and of all of them."""

from jopt import prune
from jopt.config import join_path, require
from jopt.prune.schedule import step_at
from jopt.quantize.weights import OF_THE_MOMENT
from jopt.train.compression import KINDS, Part, acting
from jopt.train.config import Experiment, stage_optimizer
from jopt.train.schedule import StageSteps


def validate(config: Experiment, path: str = "") -> None:
    """Checks what each stage names, and what it makes of the stages before.

    Raises:
      ConfigError: naming the field, its value and what is accepted.
    """
    field = join_path(path, "order")
    require(sorted(config.order) == sorted(KINDS), field, config.order, f"some order of {', '.join(KINDS)}")
    for index, stage in enumerate(config.stages):
        here = join_path(path, f"stages[{index}]")
        for kind, package in KINDS.items():
            if (own := getattr(stage, kind)) is not None:
                package.validate(own, f"{here}.{kind}")
        before = set(acting(config, index - 1)) if index else set()
        for name in stage.release:
            accepted = f"a method that acts in the stage before ({', '.join(sorted(before)) or 'none does'})"
            require(name in before, f"{here}.release", name, accepted)
        _check_order(config, index, here)


def _check_order(config: Experiment, index: int, here: str) -> None:
    """Raises ConfigError where a method would break what another one holds."""
    _check_tied(acting(config, index), here, config)
    active = {kind: part.config for kind, part in acting(config, index).items()}
    if "share" in active:
        optimizer = f"{here}.optimizer" if config.stages[index].optimizer else "optimizer"
        clipped = stage_optimizer(config, index).adaptive_clip
        accepted = "None where weights are shared: each unit's own factor would move those of one value apart"
        require(clipped is None, f"{optimizer}.adaptive_clip", clipped, accepted)
    if "share" in active and "quantize" in active:
        code = active["quantize"]
        accepted = "a scheme with one scale where weights are shared: several would split the k shared values"
        require(code.scheme != "xnor", f"{here}.quantize.scheme", code.scheme, accepted)
        one_scale = code.granularity == "tensor" or code.scheme in ("identity", "binary")
        accepted = "'tensor' where weights are shared: several scales would split the k shared values"
        require(one_scale, f"{here}.quantize.granularity", code.granularity, accepted)


def _check_tied(active: dict[str, Part], here: str, config: Experiment) -> None:
    """Raises ConfigError where layers that are to be held equal would be pruned, shared or clipped apart."""
    if "tie" not in active:
        return
    tie = active["tie"]
    for kind in ("share", "quantize"):
        part = active.get(kind)
        if part is not None and (kind == "share" or part.config.calibration not in OF_THE_MOMENT):
            accepted = (
                f"in no later stage than {config.stages[part.stage].name!r}, whose {kind} chose for each layer"
            )
            require(tie.stage <= part.stage, f"{here}.tie", tie.config.groups, accepted)
    if "share" in active:
        field, start = f"stages[{active['share'].stage}].share.start", active["share"].config.start
        accepted = "'linear' or 'density' where layers are tied: for each layer another start would be drawn"
        require(start != "kmeans++", field, start, accepted)
    if "prune" not in active:
        return
    pruned, here = active["prune"].config, f"stages[{active['prune'].stage}].prune"
    for name, fine in (
        ("method", ("one_shot", "gradual", "iterative")),
        ("score", ("magnitude", "l2")),
        ("budget", ("layer", "erk")),
        ("rules", ((),)),
    ):
        value = getattr(pruned, name)
        accepted = f"one of {', '.join(map(repr, fine))} where layers are tied: else they would be pruned apart"
        require(value in fine, f"{here}.{name}", value, accepted)
    tied_first = active["tie"].stage <= active["prune"].stage and config.order.index("tie") < config.order.index(
        "prune"
    )
    require(tied_first, "order", config.order, "an order with 'tie' before 'prune', and ties from no later stage")


def check_length(config: Experiment, stage: int, place: StageSteps) -> None:
    """Raises ConfigError if a stage's last update comes before its sparsity or its codebook is due."""
    own, shared = config.stages[stage].prune, config.stages[stage].share
    last = place.last_update

    def accepted(what: str, due: int) -> str:
        return (
            f"such that the {what} at step {last} or before, where the stage's last segment starts, and "
            f"not at step {due}; or shorter segments"
        )

    if shared is not None:
        due = int(step_at(shared.begin, begin=place.start, steps=place.steps))
        require(due <= last, f"stages[{stage}].share.begin", shared.begin, accepted("codebooks are chosen", due))
    if own is None:
        return
    due = prune.reached_at(own, begin=place.start, steps=place.steps, last_update=last)
    name = "begin" if own.end is None or own.method not in prune.SCHEDULED else "end"
    field = f"stages[{stage}].prune.{name}"
    require(due <= last, field, getattr(own, name), accepted("sparsity is reached", due))
    if own.score == "movement":
        field = f"stages[{stage}].prune.score"
        another = (
            "not 'movement' where the sparsity is due as the stage starts, before any step; or shorter segments"
        )
        require(due > place.start, field, own.score, another)
