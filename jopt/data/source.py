"""Source: the base class of the configs of data sets."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
from jaxtyping import PyTree

from jopt.config import check_types, choice, join_path, require
from jopt.data.examples import Raw, Split
from jopt.data.outline import Outline
from jopt.hyper import structural
from jopt.reference import resolve
from jopt.typing import Key

RESIDENCIES = ("device", "host")
S = TypeVar("S", bound="Source")


class ReadPath(NamedTuple):
    """A file or a directory that a source reads.

    Attributes:
      field: of the source, that names it.
      path: as the field says.
      recursive: whether what lies below the directory is read, at any depth.
    """

    field: str
    path: str
    recursive: bool = True


@dataclasses.dataclass(kw_only=True)
class Source:
    """Where examples come from. A data set of jopt's and one from outside are the same kind of class: a dataclass
    that derives from this one, has exactly the fields that it reads, and defines `read`.

    Every field is structure: another value is another program or other constants.

    Attributes:
      validation_fraction: of the training part, held out where the set has no validation part.
      train_examples: None: all; n: a subset, stratified where targets are classes (n and m > n are nested).
      normalize: True: inputs that are numbers become (x - mean) / std by the training part's statistics, along
        their last axis. False: floats stay as they are, uint8 becomes x / scale, in [0, 1]. Integers of other
        types, and tokens, stay as they are in both.
      preprocess: a function of NumPy arrays, `(inputs, targets) -> (inputs, targets)`, applied to each part as it
        was read, or its reference 'package.module:name'; None: none.
      augmentation: a pure function `(key, inputs) -> inputs` of a batch as it is stored, applied in each training
        step with the key of that step, or its reference; None: none.
      residency: 'device': the training part is held on the device. 'host': it stays in the host's memory (or is
        mapped from a file), and each segment's rows are gathered there while the segment before runs.
    """

    validation_fraction: float = structural(0.1)
    train_examples: int | None = None
    normalize: bool = True
    preprocess: str | Callable[..., Any] | None = None
    augmentation: str | Callable[..., Any] | None = None
    residency: str = "device"

    kind: ClassVar[str] = ""
    """What tables call the set."""
    PATHS: ClassVar[tuple[str, ...]] = ()
    """The fields that hold paths: a foreign config may not choose them freely, packed files do not tell them, and
    `--data_dir` of the apps takes the place of the first that is set."""

    def read(self, *, trusted: bool = False) -> Raw:
        """The set as its makers split it. May take long; called once a run.

        Args:
          trusted: lifts the rules for foreign files (`docs/security.md`).

        Raises:
          DataError: if the set is not there, or is not what it should be.
        """
        raise NotImplementedError(f"{type(self).__name__} must define read()")

    def validate(self, path: str = "data") -> None:
        """Checks the fields, before anything is read.

        Raises:
          ConfigError: naming the field, its value and what would be accepted.
        """
        check_types(self, path)
        fraction, count = self.validation_fraction, self.train_examples
        require(0 < fraction < 1, join_path(path, "validation_fraction"), fraction, "a number in (0, 1)")
        accepted = "None or a number of examples > 0"
        require(count is None or count > 0, join_path(path, "train_examples"), count, accepted)
        choice(join_path(path, "residency"), self.residency, RESIDENCIES)
        for field in ("preprocess", "augmentation"):
            if isinstance(reference := getattr(self, field), str):
                resolve(reference, join_path(path, field))

    @classmethod
    def from_older(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The JSON object of a set, with its class, from one of before each set had a class of its own.

        Example:
          >>> Source.from_older({"name": "mnist", "shift": 2})
          {'class': 'jopt.data:Tfds', 'name': 'mnist', 'shift': 2}
        """
        from jopt.data.named import with_class

        return with_class(values)

    @property
    def label(self) -> str:
        """A short name for tables and messages."""
        return self.kind or type(self).__name__

    def outline(self, *, trusted: bool = False) -> Outline:
        """What the set would be, as far as can be said without reading it. `trusted` as in `read`."""
        del trusted
        return Outline()

    def paths(self) -> Iterator[ReadPath]:
        """What is read, for the check of foreign configs."""
        for field in self.PATHS:
            value = getattr(self, field)
            for path in value if isinstance(value, tuple) else (value,):
                if path:
                    yield ReadPath(field, path)

    @property
    def main_path(self) -> str | None:
        """The field that `--data_dir` of the apps replaces; None for a set that is read from no path."""
        return next((field for field in self.PATHS if getattr(self, field)), next(iter(self.PATHS), None))

    def moved(self: S, path: str | None) -> S:
        """The same set, read from the user's own path; None: from where it is by default, whatever the fields say.

        Example:
          >>> from jopt.data import Digits
          >>> Digits(data_dir="/theirs").moved("/mine").data_dir
          '/mine'
        """
        if path is None:
            defaults = {field.name: field.default for field in dataclasses.fields(self) if field.name in self.PATHS}
            return dataclasses.replace(self, **defaults)
        field = self.main_path
        if field is None:
            return self
        return dataclasses.replace(self, **{field: (path,) if isinstance(getattr(self, field), tuple) else path})

    @property
    def varies(self) -> bool:
        """Whether an example differs from one epoch to the next."""
        return self.augmentation is not None

    def augment(self, key: Key, inputs: PyTree) -> PyTree:
        """The inputs of a batch, as they are stored, changed at random; pure, called inside the step."""
        return inputs if self.augmentation is None else self._function("augmentation")(key, inputs)

    def arrange(self, splits: dict[str, Split], num_classes: int | None) -> tuple[dict[str, Split], int | None]:
        """The parts as they are trained on, after what is held out has been taken: layout, other classes."""
        if self.preprocess is None:
            return splits, num_classes
        function = self._function("preprocess")
        return {name: Split(*_pair(function, part), part.weights) for name, part in splits.items()}, num_classes

    def channels(self, shape: tuple[int, ...], arranged: tuple[int, ...]) -> int:
        """How many means and standard deviations inputs have, given their shapes before and after `arrange`."""
        del shape
        return arranged[-1] if len(arranged) > 1 else 1

    def _function(self, field: str) -> Callable[..., Any]:
        value = getattr(self, field)
        return resolve(value, f"data.{field}") if isinstance(value, str) else value


def _pair(function: Callable[..., Any], part: Split) -> tuple[Any, Any]:
    """What a function of preprocessing gives. Raises DataError if that is no pair."""
    from jopt.data.dataset import as_numpy
    from jopt.data.parts import refuse

    pair = function(part.inputs, part.targets)
    if not isinstance(pair, tuple) or len(pair) != 2:
        refuse("data.preprocess", type(pair).__name__, "a function that gives a tuple (inputs, targets)")
    inputs, targets = (jax.tree.map(as_numpy, tree) for tree in pair)
    return inputs, targets


@dataclasses.dataclass
class Given(Source):
    """A data set that was given as an object, as a run's files record it.

    Attributes:
      name: of the set.
      fingerprint: of its arrays.
    """

    name: str = "arrays"
    fingerprint: str = ""

    def read(self, *, trusted: bool = False) -> Raw:
        """Raises DataError: only who made the object can give it again."""
        from jopt.data.cache import DataError

        raise DataError(
            f"the run was given its data set {self.name!r} as an object: give the same again (data=...), or name a "
            "function that makes it: data.Custom('package.module:function')",
            field="data",
            value=self.name,
            accepted="the object, or a config that names the set",
        )

    @property
    def label(self) -> str:
        """The set's name."""
        return self.name


def varied(source: Any, key: jax.Array, inputs: PyTree) -> PyTree:
    """`source.augment`, checked to keep shapes and dtypes: in a program, another shape would be another batch."""
    augmented = source.augment(key, inputs)
    before, after = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (inputs, augmented))
    if before != after:
        raise ValueError(f"the augmentation must keep shapes and dtypes {before}, it gave {after}")
    return augmented
