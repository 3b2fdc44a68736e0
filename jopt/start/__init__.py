"""Starting from weights that exist: readers, rules from names to parameters, layouts and their plan.

Names are imported when they are asked for: a config of an experiment needs the dataclasses alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jopt.start.config import OBJECT as OBJECT
from jopt.start.config import Pretrained as Pretrained
from jopt.start.config import Rule as Rule
from jopt.start.config import StartError as StartError
from jopt.start.config import validate as validate

if TYPE_CHECKING:
    from jopt.start.loading import Start as Start
    from jopt.start.loading import digests as digests
    from jopt.start.loading import load as load
    from jopt.start.reading import Source as Source
    from jopt.start.reading import from_object as from_object
    from jopt.start.reading import read as read
    from jopt.start.resolving import Filled as Filled
    from jopt.start.resolving import Network as Network
    from jopt.start.resolving import fill as fill

_HOMES = {
    **dict.fromkeys(("Start", "digests", "load"), "loading"),
    **dict.fromkeys(("Source", "from_object", "read"), "reading"),
    **dict.fromkeys(("Filled", "Network", "fill"), "resolving"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jopt.start' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"jopt.start.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
