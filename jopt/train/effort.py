"""How much the programs of a stage compute in a run, and so how well they are compiled."""

import math
from typing import NamedTuple

import jax

from jopt import levels, models
from jopt.measure.jaxprs import inner_jaxprs, repetitions
from jopt.typing import Jaxpr, ModelState, Params


class Effort(NamedTuple):
    """What a stage's programs work on, as one trial alone has it.

    Attributes:
      parameters: of the network.
      forward: array elements that the operations of a forward pass write, of one example.
      evaluations: how often the stage is evaluated, the test part included.
      evaluated: rows of the part that is evaluated.
      updates: how often the stage chooses masks, ranges and codebooks.
      calibrated: examples that its methods are calibrated on.
      trained: examples of the training part.
      teaches: whether a stage learns from this one, or takes its parameters from it.
    """

    parameters: int
    forward: int
    evaluations: int
    evaluated: int
    updates: int
    calibrated: int
    trained: int
    teaches: bool = False

    def level(self, name: str) -> int | None:
        """The level at which the program of this name is compiled, see `jopt.levels`.

        Example:
          >>> small = Effort(50_610, 1_285, 41, 180, 0, 0, 1_257)
          >>> large = Effort(11_000_000, 13_000_000, 91, 10_000, 0, 0, 45_000)
          >>> [(small.level(name), large.level(name)) for name in ("init", "evaluate", "segment")]
          [(1, 1), (0, None), (None, None)]
        """
        elements = {
            "init": _PER_DRAW * self.parameters,
            "rewind": _PER_DRAW * self.parameters,
            "transfer": _PER_DRAW * self.parameters,
            "seen": _PER_QUANTIZATION * self.parameters * (self.evaluations + 1),
            "update": _PER_CHOICE * self.parameters * self.updates
            + _PER_CALIBRATION * self.forward * self.calibrated,
            "evaluate": self.forward * self.evaluated * self.evaluations,
            "teacher": self.forward * self.trained,
        }
        # What trains runs longest, and is not among them.
        if name not in elements:
            return levels.FULL
        level = levels.Work(elements[name]).level
        # At level `QUICK`, unlike the others, it depends on what XLA fuses whether a product and a sum are rounded
        # once or twice, and a loop over trials may fuse otherwise than a run alone. So no training goes on from it.
        ends = name == "evaluate" or (name == "seen" and not self.teaches)
        return level if ends or level != levels.QUICK else levels.GOOD


# Elements a parameter (of calibration: an element of the forward pass) in one call, as measured: the time that a
# program takes longer at level `QUICK` than at `FULL`, over that of one element of a sum.
_PER_DRAW, _PER_QUANTIZATION, _PER_CHOICE, _PER_CALIBRATION = 20, 12, 100, 200


def forward_elements(model: models.Model, params: Params, model_state: ModelState, x: jax.ShapeDtypeStruct) -> int:
    """Array elements that the operations of a forward pass write.

    Args:
      model: the network.
      params: its parameters, or their shapes.
      model_state: its state, or the shapes.
      x: one batch.

    Example:
      >>> model = models.Model(lambda key, x: ({}, {}), lambda params, state, x, train: (x * 2 + 1, state))
      >>> forward_elements(model, {}, {}, jax.ShapeDtypeStruct((1, 8), "float32"))
      16
    """
    jaxpr = jax.make_jaxpr(lambda *args: model.apply(*args, train=False)[0])(params, model_state, x)
    return _elements(jaxpr.jaxpr)


def _elements(jaxpr: Jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        inner = [_elements(one) for one in inner_jaxprs(eqn)]
        results = sum(math.prod(getattr(v.aval, "shape", ())) for v in eqn.outvars)
        # A call's results are those of its body, so to count both would count them twice.
        total += repetitions(eqn) * sum(inner) if inner else results
    return total
