"""Pretrained: the config of a start from weights that exist, its rules and its error."""

import dataclasses
import re

from jopt.config import ConfigError, check_types, choice, join_path, require

LAYOUTS = ("auto", "flax", "torch")

OBJECT = "start"
"""The path of a source that is an object and has none."""


class StartError(ConfigError):
    """A source cannot be read, or does not fit the network.

    Args:
      field: dotted path of the config field, such as `start.path`.
      value: what came in.
      accepted: what would be accepted, as the end of a sentence.
      problems: a sentence for each array that does not fit; empty where the whole source cannot be used.

    Example:
      >>> print(StartError("start.path", "a.pt", "a file without Python objects"))
      start.path must be a file without Python objects, got 'a.pt'
    """

    def __init__(self, field: str, value: object, accepted: str, problems: tuple[str, ...] = ()):
        super().__init__(field, value, accepted)
        self.problems = problems

    def __reduce__(self):
        return type(self), (self.field, self.value, self.accepted, self.problems)


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""What becomes of the arrays of a source whose names match.

    In this order: `transpose`, then `reshape`, then the names of `target`. The layout is converted after that.

    Attributes:
      source: a regular expression that must match the whole name of an array, such as `features\.0\.(weight|bias)`,
        or of a module that it is in, such as `features\.0`: then what follows stays behind the new name.
      target: the new name, in which `\1` or `\g<name>` stands for a group; a dot or a slash separates its parts,
        and PyTorch's names of parameters (`weight`) and the network's own (`kernel`) both count. Several names cut
        the first axis into equal parts, one for each. None: the array is not used.
      transpose: an order of the axes, as for `numpy.transpose`; () leaves them.
      reshape: a shape, in which one -1 is computed; () leaves it.
      layout: the layout of these arrays, where it is not that of the source: 'flax' takes an array as it is.

    Example:
      >>> query_key_value = Rule(r"attn\.in_proj_(weight|bias)", (r"query.\1", r"key.\1", r"value.\1"))
      >>> conv1d_of_gpt2 = Rule(r"(.*)\.c_fc\.weight", r"\1.Dense_0.weight", transpose=(1, 0))
    """

    source: str
    target: str | tuple[str, ...] | None
    transpose: tuple[int, ...] = ()
    reshape: tuple[int, ...] = ()
    layout: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """The templates of the new names."""
        if self.target is None:
            return ()
        return (self.target,) if isinstance(self.target, str) else self.target


@dataclasses.dataclass(frozen=True)
class Pretrained:
    r"""Where a network's parameters and model state come from, in place of its initializers.

    Every parameter must be filled and every array of the source used, or be excused here.

    Attributes:
      path: a safetensors file or its `.safetensors.index.json`, an `.npz`, an `.onnx`, a packed `.jopt`, an Orbax
        checkpoint or the directory of a finished run.
      rules: pairs of a regular expression on the source's names (of arrays or of their modules) and a new name, as
        in `re.sub`, or `Rule`s, which also move axes. The first that matches decides; a name without a
        match stays.
      layout: how the source's arrays lie in memory. 'torch': PyTorch's names and axes (Linear [out, in], Conv [out,
        in, height, width], maps flattened channels first); 'flax': as the network has them; 'auto': the one that
        the names tell, such as `weight` or `kernel`, and an error where they tell none or both.
      allow_missing: regular expressions of parameters, or modules, that may keep their initial values.
      allow_unused: regular expressions of the source's names, or modules, that may go unused.

    Example:
      >>> rules = (("conv1", "Conv_0"), (r"layers\.(\d)\.fc", r"Dense_\1"))
      >>> validate(Pretrained("resnet.safetensors", rules, allow_unused=("head",)))
    """

    path: str
    rules: tuple[tuple[str, str | None] | Rule, ...] = ()
    layout: str = "auto"
    allow_missing: tuple[str, ...] = ()
    allow_unused: tuple[str, ...] = ()

    @property
    def full_rules(self) -> tuple[Rule, ...]:
        """The rules, pairs made into `Rule`s."""
        return tuple(rule if isinstance(rule, Rule) else Rule(*rule) for rule in self.rules)


def validate(config: Pretrained, path: str = "start") -> None:
    """Checks a config; the source is read later.

    Raises:
      ConfigError: names the field, the value and the accepted values.

    Example:
      >>> validate(Pretrained("a.npz", rules=(("(", "a"),)))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: start.rules[0] must be a regular expression (missing ), unterminated subpattern at
      position 0), got '('
    """
    check_types(config, path)
    require(bool(config.path.strip()), join_path(path, "path"), config.path, "the path of a file or a directory")
    choice(join_path(path, "layout"), config.layout, LAYOUTS)
    for name in ("allow_missing", "allow_unused"):
        for i, pattern in enumerate(getattr(config, name)):
            _compile(f"{join_path(path, name)}[{i}]", pattern)
    for i, rule in enumerate(config.full_rules):
        field = f"{join_path(path, 'rules')}[{i}]"
        pattern = _compile(field, rule.source)
        accepted = "None or at least one name"
        require(rule.target is None or (all(rule.targets) and bool(rule.targets)), field, rule.target, accepted)
        for target in rule.targets:
            try:
                # An empty text is enough: `re` checks the whole template before it searches for a match.
                pattern.sub(target, "")
            except (re.error, IndexError) as error:
                raise ConfigError(field, target, f"a name with groups of {rule.source!r} ({error})") from error
        axes, sizes = rule.transpose, rule.reshape
        require(sorted(axes) == list(range(len(axes))), f"{field}.transpose", axes, "an order of all axes, or ()")
        fine = all(n >= -1 for n in sizes) and sizes.count(-1) <= 1
        require(fine, f"{field}.reshape", sizes, "sizes of which at most one is -1, or ()")
        if rule.layout is not None:
            choice(f"{field}.layout", rule.layout, LAYOUTS[1:])


def _compile(field: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(field, pattern, f"a regular expression ({error})") from error
