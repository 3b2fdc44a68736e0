"""Network: the base class of the configs of models, and Custom, which names somebody's own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jopt.config import ConfigError, Option, check_types, choice, join_path
from jopt.models.functional import Model
from jopt.models.layers import ACTIVATIONS
from jopt.models.target import from_any
from jopt.reference import reference_of, resolve
from jopt.typing import Activation


@dataclasses.dataclass
class Network:
    """What is trained: a dataclass that derives from this one. Floats in it are traced numbers, as everywhere."""

    def validate(self, path: str = "model") -> None:
        """Checks the fields. Raises ConfigError naming the field, the value and what is accepted."""
        check_types(self, path)

    def model(self) -> Model:
        """The pure functions of the model. Numbers may be tracers."""
        raise NotImplementedError(f"{type(self).__name__} must define model()")

    def hidden_activation(self) -> Activation:
        """What follows the hidden layers, for scores that look at their outputs; the identity if nothing does."""
        return ACTIVATIONS["identity"]

    @property
    def label(self) -> str:
        """A short name for tables and messages."""
        return type(self).__name__


@dataclasses.dataclass
class Custom(Network):
    """A model of somebody's own: any Flax Linen, NNX or Equinox module, or plain functions.

    Attributes:
      name: 'package.module:name' of a module class, or of a function that gives a module, a `jopt.models.Model` or
        a pair `(init, apply)`.
      options: the arguments that it is made with. Each can be an axis or a flag: `model.options.width`.
      activation: the function that follows its hidden layers, one of `ACTIVATIONS`, for scores of outputs; None:
        such scores see the outputs as they are.

    Example:
      >>> Custom("flax.linen:Dense", options={"features": 3}).model().layers is None
      True
    """

    # A Callable, so that a foreign file's is looked up under the rules of trust.
    name: str | Callable[..., Any] = ""
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)
    activation: str | None = None

    def validate(self, path: str = "model") -> None:
        """Checks that the model can be made of its options; nothing is computed."""
        super().validate(path)
        if self.activation is not None:
            choice(join_path(path, "activation"), self.activation, ACTIVATIONS)
        self._made(path)

    def model(self) -> Model:
        """The model."""
        return self._made("model")

    def hidden_activation(self) -> Activation:
        """The function that `activation` names."""
        return ACTIVATIONS[self.activation or "identity"]

    @property
    def label(self) -> str:
        """The name after the colon."""
        return reference_of(self.name).rpartition(":")[2]

    def _made(self, path: str) -> Model:
        target = resolve(reference_of(self.name), join_path(path, "name"))
        try:
            return from_any(target, dict(self.options))
        # Anything that her own constructor raises is about its arguments.
        except (TypeError, ValueError) as error:
            accepted = f"a model made of its options {dict(self.options)} ({error})"
            raise ConfigError(join_path(path, "name"), self.name, accepted) from error
