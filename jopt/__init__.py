"""jopt: train and compress neural networks with pure functions, and measure what helped.

Names are imported when they are asked for, so that `jopt.codec` reads a packed model where JAX is not installed.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

# Here and not where the first lock is taken: a run must not fail after its data were loaded.
if sys.platform.startswith("win"):
    raise ImportError("jopt runs on Linux and macOS; on Windows, install it in WSL (https://aka.ms/wsl)")

if TYPE_CHECKING:
    from jopt.config import ConfigError as ConfigError
    from jopt.rules import RuleError as RuleError
    from jopt.transform import ParamTransform as ParamTransform
    from jopt.transform import Storage as Storage
    from jopt.transform import chain as chain
    from jopt.transform import hold as hold
    from jopt.transform import identity as identity
    from jopt.transform import project_moments as project_moments

_HOMES = {
    "ConfigError": "jopt.config",
    "RuleError": "jopt.rules",
    "ParamTransform": "jopt.transform",
    "Storage": "jopt.transform",
    "chain": "jopt.transform",
    "hold": "jopt.transform",
    "identity": "jopt.transform",
    "project_moments": "jopt.transform",
}
_MODULES = (
    "ablate", "cluster", "codec", "config", "data", "distill", "export", "layers", "measure", "mesh", "models",
    "optim", "processes", "prune", "quantize", "report", "rules", "start", "train", "transform",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"jopt.{name}")
    else:
        raise AttributeError(f"module 'jopt' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
