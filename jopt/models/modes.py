"""Training mode and evaluation mode: the keyword that selects it, and modules without such a keyword."""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

from flax import linen as nn

MODES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}
"""The keywords that choose the mode, and their value in training."""


def mode_keywords(module_class: type, mode: str | None) -> dict[str, bool]:
    """The keywords that `module_class.__call__` takes for its mode, and their values in training.

    Args:
      module_class: a class of Linen or NNX modules.
      mode: 'auto' for those of `MODES` that it takes by name; the name of its keyword; None for none.

    Raises:
      ValueError: if it does not take the keyword that `mode` names.

    Example:
      >>> mode_keywords(nn.Dropout, "auto"), mode_keywords(nn.Dense, "auto")
      ({'deterministic': False}, {})
    """
    parameters = inspect.signature(module_class.__call__).parameters
    if mode is None:
        return {}
    if mode == "auto":
        return {name: value for name, value in MODES.items() if name in parameters}
    if mode not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        takes = ", ".join(name for name in parameters if name != "self")
        raise ValueError(
            f"mode must be 'auto', None or a keyword of {module_class.__name__}.__call__ ({takes}), got {mode!r}"
        )
    return {mode: MODES.get(mode, True)}


@contextlib.contextmanager
def no_hidden_modes(module_class: type) -> Iterator[None]:
    """Raises ValueError where a Linen layer runs that has two modes, inside a module without a keyword for them."""

    def intercept(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "__call__" and _has_modes(context.module):
            layer = "/".join(context.module.path) or "it"
            raise ValueError(
                f"{layer} ({type(context.module).__name__}) differs between training and evaluation, but "
                f"{module_class.__name__}.__call__ takes none of {', '.join(MODES)} by name: from_linen(module, "
                "mode='...') names its keyword, and mode=None says that the layer stays as it is"
            )
        return call(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def _has_modes(layer: nn.Module) -> bool:
    rates = [getattr(layer, name, None) for name in ("rate", "dropout_rate")]
    if any(isinstance(rate, int | float) and rate == 0 for rate in rates):
        return False
    return bool(mode_keywords(type(layer), "auto"))
