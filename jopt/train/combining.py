"""Which methods go together: what a config's stages may ask for, of each method and of all of them."""

from jopt import prune
from jopt.config import join_path, require
from jopt.train.compression import KINDS, Part, acting
from jopt.train.config import Experiment
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
    _check_tied(config, acting(config, index))
    active = {kind: part.config for kind, part in acting(config, index).items()}
    if "share" in active and "quantize" in active:
        code = active["quantize"]
        accepted = "a scheme with one scale where weights are shared: several would split the k shared values"
        require(code.scheme != "xnor", f"{here}.quantize.scheme", code.scheme, accepted)
        one_scale = code.granularity == "tensor" or code.scheme in ("identity", "binary")
        accepted = "'tensor' where weights are shared: several scales would split the k shared values"
        require(one_scale, f"{here}.quantize.granularity", code.granularity, accepted)


def _check_tied(config: Experiment, active: dict[str, Part]) -> None:
    """Raises ConfigError where layers that are held equal would be pruned apart."""
    if not {"tie", "prune"} <= active.keys():
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
    """Raises ConfigError if a stage's last update of masks comes before its sparsity is due."""
    own = config.stages[stage].prune
    if own is None:
        return
    due = prune.reached_at(own, begin=place.start, steps=place.steps)
    last = place.start + max(place.steps - 1, 0) // max(place.segment_steps, 1) * place.segment_steps
    accepted = (
        f"such that the sparsity is reached at step {last} or before, where the stage's last segment starts, and "
        f"not at step {due}; or shorter segments"
    )
    require(due <= last, f"stages[{stage}].prune.end", own.end, accepted)
