"""The pruning config: what is pruned, by which score, how far and when."""

import dataclasses
import math
import re

from jopt.config import check_types, choice, join_path, require
from jopt.hyper import as_traced, swept
from jopt.prune.criteria import SCORES
from jopt.prune.patterns import SIDES
from jopt.prune.pools import BUDGETS

METHODS = ("one_shot", "gradual", "iterative", "rigl", "set")
DYNAMIC = ("rigl", "set")
SCHEDULED = ("gradual", "iterative")
"""The methods whose sparsity grows until `end`."""
DEFAULT_END = 0.75
PATTERNS = ("unstructured", "nm", "block", "channel")


@dataclasses.dataclass
class Config:
    """Pruning of a stage.

    Every number may be traced, but `n`, `m`, `block`, `along`, `axis` and the rules, which are structure. A number
    that the method or the pattern does not read is ignored, so that one config can be swept over these names.

    Attributes:
      method: 'one_shot', 'gradual', 'iterative', 'rigl' or 'set'; see the functions of these names in `jopt.prune`
        ('set' is `set_evolution`).
      score: one of `jopt.prune.SCORES`. 'rigl' and 'set' drop by 'magnitude' and take no other.
      pattern: 'unstructured', 'nm' (`n` of every `m`), 'block' (of the matrix [inputs, outputs]) or 'channel'.
      sparsity: the share of weights, or of blocks or channels, to prune, in [0, 1). 'nm' has its own.
      initial_sparsity: gradual: where the cubic starts, in [0, `sparsity`].
      budget: 'layer': each parameter has this sparsity; 'global': all parameters compete for one budget; 'erk':
        Erdos-Renyi-Kernel shares.
      begin: when pruning begins, as a fraction of the stage, in [0, 1). One-shot pruning, the first round, and the
        random masks of 'rigl' and 'set' take place here. Masks are chosen between segments: in the first update at
        or after the step `jopt.prune.step_at(begin, ...)`.
      end: from when on the masks hold, as a fraction of the stage, in [`begin`, 1]. None: 0.75, or `begin` where
        that is later; of gradual and iterative pruning not after the stage's last update, so that a stage of any
        length reaches its sparsity.
      rounds: iterative: how many rounds, at least 1.
      drop_fraction: rigl and set: the share of kept weights that an update replaces, in [0, 1); rigl's falls to 0.
      n: nm: how many are kept, at least 1.
      m: nm: of how many, above `n`.
      block: block: the sides.
      along: nm and channel: along the 'outputs' or the 'inputs' of the layer, whichever axes of its kernel these
        are.
      axis: nm and channel: an axis by its number instead, the same for every parameter; None: as `along` says.
      rules: pairs of a pattern of a parameter's path and its own sparsity, or None to leave it alone. The first
        match wins; without rules every weight is pruned (`jopt.layers` says which these are).

    Example:
      >>> validate(Config("gradual", sparsity=0.95, rules=(("Dense_2/kernel", 0.5),)))
    """

    method: str = "gradual"
    score: str = "magnitude"
    pattern: str = "unstructured"
    sparsity: float = 0.9
    initial_sparsity: float = 0.0
    budget: str = "layer"
    begin: float = 0.0
    end: float | None = None
    rounds: int = swept(5)
    drop_fraction: float = 0.3
    n: int = 2
    m: int = 4
    block: tuple[int, ...] = (4, 4)
    along: str = "outputs"
    axis: int | None = None
    rules: tuple[tuple[str, float | None], ...] = ()


def validate(config: Config, path: str = "prune") -> None:
    """Checks a config of plain Python values, once, before anything compiles.

    Whether the rules match and the pattern fits is known only with the parameters: `plan` tells.

    Args:
      config: the config.
      path: its place in the experiment, for the message.

    Raises:
      ConfigError: names the field, the value and what would be accepted.

    Example:
      >>> validate(Config(sparsity=1.0))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: prune.sparsity must be a number in [0, 1), got 1.0
    """
    check_types(config, path)
    for name, names in (("method", METHODS), ("score", SCORES), ("pattern", PATTERNS), ("budget", BUDGETS)):
        choice(join_path(path, name), getattr(config, name), names)
    for name in ("sparsity", "initial_sparsity", "begin", "drop_fraction"):
        value = getattr(config, name)
        require(_in_unit(value), join_path(path, name), value, "a number in [0, 1)")
    begin, end, first = config.begin, config.end, config.initial_sparsity
    first_end = 0.0 if config.method == "one_shot" else begin
    accepted = f"None or a number in [begin, 1], begin being {begin}"
    fine = end is None or (_is_finite(end) and first_end <= end <= 1)
    require(fine, join_path(path, "end"), end, accepted)
    if config.method == "gradual":
        accepted = f"at most sparsity ({config.sparsity})"
        require(first <= config.sparsity, join_path(path, "initial_sparsity"), first, accepted)
    require(1 <= config.rounds < 2**31, join_path(path, "rounds"), config.rounds, "an integer, at least 1")
    require(config.n >= 1, join_path(path, "n"), config.n, "an integer, at least 1")
    require(config.m > config.n, join_path(path, "m"), config.m, f"above n ({config.n})")
    choice(join_path(path, "along"), config.along, SIDES)
    if config.axis is not None:
        require(config.along == "outputs", join_path(path, "along"), config.along, "left out where axis is given")
    fine = bool(config.block) and all(side >= 1 for side in config.block)
    require(fine, join_path(path, "block"), config.block, "one or more integers, at least 1")
    _validate_rules(config, path)
    _validate_combination(config, path)


def _validate_rules(config: Config, path: str) -> None:
    for i, (pattern, value) in enumerate(config.rules):
        field = f"{join_path(path, 'rules')}[{i}]"
        try:
            re.compile(pattern)
        except re.error as error:
            require(False, field, pattern, f"a regular expression ({error})")
        if config.pattern == "nm":
            accepted = f"(path, None): 'nm' has a sparsity of its own, {1 - config.n / config.m:g}"
            require(value is None, field, (pattern, value), accepted)
        require(value is None or _in_unit(value), field, value, "a sparsity in [0, 1), or None to leave it alone")


def _validate_combination(config: Config, path: str) -> None:
    def need(field: str, names: tuple[str, ...], why: str) -> None:
        value = getattr(config, field)
        require(value in names, join_path(path, field), value, f"{' or '.join(map(repr, names))} for {why}")

    if config.method in DYNAMIC:
        why = f"method {config.method!r}"
        need("score", ("magnitude",), f"{why}, which drops by it")
        need("pattern", ("unstructured",), f"{why}, which drops and grows single weights")
        need("budget", ("layer", "erk"), f"{why}, whose layers keep their counts")
    if config.score == "activation":
        need("pattern", ("channel",), "score 'activation', which is one number a neuron")
        need("along", ("outputs",), "score 'activation', which is one number an output unit")
        require(config.axis in (None, -1), join_path(path, "axis"), config.axis, "None for score 'activation'")
    if config.pattern == "nm":
        need("method", ("one_shot",), "pattern 'nm', whose sparsity cannot grow")
        need("budget", ("layer",), "pattern 'nm', which leaves nothing to share out")
    if config.score == "movement":
        at_once = config.method != "gradual" or config.initial_sparsity > 0
        accepted = "above 0 for score 'movement', which must have seen steps before the first choice"
        require(config.begin > 0 or not at_once, join_path(path, "begin"), config.begin, accepted)


def _is_finite(value: float) -> bool:
    return math.isfinite(value)


def _in_unit(value: float) -> bool:
    # In the program the number is a float32, where 1 - 1e-12 is 1.
    return all(_is_finite(x) and 0 <= x < 1 for x in (value, as_traced(value)))
