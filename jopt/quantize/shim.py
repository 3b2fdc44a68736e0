"""Temporary."""

import dataclasses
from typing import ClassVar

from jopt import quantize as Q
from jopt.hyper import swept
from jopt.method import InputRow, Method
from jopt.quantize.activation_config import ActivationConfig, plan_activations, validate_activations
from jopt.quantize.check import check as C
from jopt.quantize.config import Config
from jopt.quantize.config import build as B
from jopt.quantize.config import validate as V
from jopt.quantize.plan import plan as P
from jopt.quantize.weights import OF_THE_MOMENT


@dataclasses.dataclass(frozen=True)
class _W(Method):
    name: ClassVar[str] = "quantize"
    rank: ClassVar[int] = 40
    scheme: ClassVar[str] = ""

    def _config(self):
        kw = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if kw.get("group") is not None:
            kw["granularity"] = "group"
        scheme = self.scheme
        if "bits" in kw and kw["bits"] is None:
            scheme = "identity"
            kw.pop("bits")
        return Config(scheme, **kw)

    def validate(self, path="quantize"):
        V(self._config(), path)

    def build(self, *, begin=0, steps=0, last_update=None, layers=None):
        return B(self._config(), layers=layers)

    def plan(self, params, layers=None):
        return P(self._config(), params, layers)

    def check(self, state, seen, layers=None):
        return C(self._config(), state, seen, layers)

    def splits_shared_values(self):
        c = self._config()
        if c.scheme == "xnor":
            return "scheme", c.scheme, "a scheme with one scale"
        if c.granularity != "tensor" and c.scheme not in ("identity", "binary"):
            return "granularity", c.granularity, "'tensor'"

    @property
    def chosen_between_segments(self):
        return self._config().calibration not in OF_THE_MOMENT


@dataclasses.dataclass(frozen=True)
class Weights(_W):
    scheme: ClassVar[str] = "integer"
    bits: int | None = swept(8)
    symmetric: bool = True
    granularity: str = "channel"
    group: int | None = None
    calibration: str = "auto"
    rules: tuple[tuple[str, int | None], ...] = ()


@dataclasses.dataclass(frozen=True)
class Binary(_W):
    scheme: ClassVar[str] = "binary"
    rules: tuple[tuple[str, int | None], ...] = ()


@dataclasses.dataclass(frozen=True)
class XNOR(_W):
    scheme: ClassVar[str] = "xnor"
    rules: tuple[tuple[str, int | None], ...] = ()


@dataclasses.dataclass(frozen=True)
class Ternary(_W):
    scheme: ClassVar[str] = "ternary"
    threshold: float = 0.7
    granularity: str = "tensor"
    rules: tuple[tuple[str, int | None], ...] = ()


@dataclasses.dataclass(frozen=True)
class _A(Method):
    name: ClassVar[str] = "activations"
    rank: ClassVar[int] = 60
    key: ClassVar[str] = "activation_ranges"
    how: ClassVar[str] = ""
    bits: int | None = swept(8)
    symmetric: bool = False
    examples: int = 512
    rules: tuple[tuple[str, int | None], ...] = ()
    state: bool = False

    @property
    def method(self):
        return self.config().method

    @property
    def is_identity(self):
        return self.config().is_identity

    def __getattr__(self, name):
        if name in ("percentile", "momentum"):
            return getattr(self.config(), name)
        raise AttributeError(name)

    def config(self):
        kw = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        how = kw.pop("calibration", self.how)
        return ActivationConfig(how, **kw)

    def validate(self, path="activations"):
        validate_activations(self.config(), path)

    def wrap(self, model, *, frozen=False):
        return Q.activations(model, self.config())

    def calibration_examples(self):
        return self.examples

    def calibrate(self, model, params, model_state, inputs, *, seen):
        return Q.calibrate(model, self.config(), params, model_state, inputs, seen=seen)

    def plan_inputs(self, model, x):
        return [InputRow(*r) for r in plan_activations(self.config(), model, x)]


@dataclasses.dataclass(frozen=True)
class Activations(_A):
    calibration: str = "percentile"
    percentile: float = 99.9


@dataclasses.dataclass(frozen=True)
class LSQActivations(_A):
    how: ClassVar[str] = "lsq"


@dataclasses.dataclass(frozen=True)
class PACTActivations(_A):
    how: ClassVar[str] = "pact"
    percentile: float = 99.9


@dataclasses.dataclass(frozen=True)
class MovingAverageActivations(_A):
    how: ClassVar[str] = "moving_average"
    momentum: float = 0.9


def activations_from_metadata(d):
    from jopt.config import from_dict

    d = dict(d)
    how = d.pop("method", "percentile")
    cls = {"lsq": LSQActivations, "pact": PACTActivations, "moving_average": MovingAverageActivations}.get(
        how, Activations
    )
    if cls is Activations:
        d["calibration"] = how
    names = {f.name for f in dataclasses.fields(cls)}
    return from_dict(cls, {k: v for k, v in d.items() if k in names}, "activations")
