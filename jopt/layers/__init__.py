"""What a model says about its parameters: which are weights, of which kind of layer, and what their axes mean.

Every method and measure reads this, and nothing else, to tell a kernel from a bias, an output from an input, and
one copy of a scanned layer from the next. Names are imported when they are asked for: what names alone say about
parameters (`parameter`) needs no JAX, and packed files are read without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jopt.layers.copies import over_copies as over_copies
    from jopt.layers.copies import to_copies as to_copies
    from jopt.layers.parameter import WEIGHTS as WEIGHTS
    from jopt.layers.parameter import Layers as Layers
    from jopt.layers.parameter import LayoutError as LayoutError
    from jopt.layers.parameter import Parameter as Parameter
    from jopt.layers.parameter import PlanRow as PlanRow
    from jopt.layers.parameter import assumed as assumed
    from jopt.layers.parameter import is_weight as is_weight
    from jopt.layers.parameter import one_copy as one_copy
    from jopt.layers.parameter import within_copy as within_copy
    from jopt.layers.tracing import parameters as parameters
    from jopt.layers.tracing import trace as trace

_HOMES = {
    **dict.fromkeys(("over_copies", "to_copies"), "copies"),
    **dict.fromkeys(
        (
            *("WEIGHTS", "Layers", "LayoutError", "Parameter", "PlanRow"),
            *("assumed", "is_weight", "one_copy", "within_copy"),
        ),
        "parameter",
    ),
    **dict.fromkeys(("parameters", "trace"), "tracing"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jopt.layers' has no attribute {name!r}")
    # Kept, so that this function runs once for each name.
    value = globals()[name] = getattr(importlib.import_module(f"jopt.layers.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
