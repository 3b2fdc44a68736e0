"""Method: what a stage does to a network, as one frozen config class.

A method of jopt's and a method from outside are the same kind of class: a frozen dataclass that derives from
`Method`, has exactly the fields that it reads, and overrides the hooks that it needs. Fields declared `float`
(or with `jopt.hyper.swept`) are traced numbers, so a grid over them is one program.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from jopt.config import check_types
from jopt.layers import Layers, PlanRow
from jopt.transform import Params, ParamTransform, State, hold
from jopt.typing import ModelState

if TYPE_CHECKING:
    import jax

    from jopt.models import Model


class InputRow(NamedTuple):
    """What a method does to the input of one layer.

    Attributes:
      path: the layer's path.
      shape: of one example's input.
      what: what is done with it.
    """

    path: str
    shape: tuple[int, ...]
    what: str


class Applied(NamedTuple):
    """A method where it stands.

    Attributes:
      method: the method.
      path: its address in the experiment, such as `stages[1].prune`.
      stage: the index of the stage that names it.
    """

    method: "Method"
    path: str
    stage: int


class Context(NamedTuple):
    """The other methods and the optimizer of a stage, for the checks of one of its methods.

    Attributes:
      mine: that method.
      applied: all methods that act in the stage, first to last, that one included.
      optimizer: the stage's `jopt.optim.Config`.
      optimizer_path: its address.
    """

    mine: Applied
    applied: tuple[Applied, ...]
    optimizer: Any
    optimizer_path: str


@dataclasses.dataclass(frozen=True)
class Method:
    """What a stage does to its network. Every hook has a default that does nothing.

    A stage applies its methods in order. In later stages a method stays as it ended (`freeze`), until a stage
    releases its name, names a method of the same name, or starts another network.

    Class attributes:
      name: what addresses, `Stage.release` and reports call it. One method of a name acts at a time.
      rank: where it goes among the methods of earlier stages, and where an address puts it that names no place:
        lower ranks first. Ours: tie 10, prune 20, share 30, quantize 40, clip 50, activations 60, distill 70.
      persists: whether it stays applied in later stages.
      chooses: whether anything is chosen or measured between the segments of its stage.
      key: under which its trainable parameters stand in the tree that the optimizer moves, beside the model's own
        parameters, and what it keeps in the model state; '' is its name.

    Example:
      A method in one file: weights rounded to whole multiples of a traced step.

      >>> import jax, jax.numpy as jnp
      >>> from jopt.transform import identity
      >>> @dataclasses.dataclass(frozen=True)
      ... class Rounded(Method):
      ...     name: ClassVar[str] = "rounded"
      ...     step: float = 0.25
      ...
      ...     def build(self, **context):
      ...         see = lambda w: w + jax.lax.stop_gradient(jnp.round(w / self.step) * self.step - w)
      ...         return identity()._replace(apply=lambda state, params: jax.tree.map(see, params))
      >>> transform = Rounded(step=0.5).build()
      >>> transform.apply((), {"w": jnp.array([0.3, 0.9])})["w"].tolist()
      [0.5, 1.0]
    """

    name: ClassVar[str] = ""
    rank: ClassVar[int] = 55
    persists: ClassVar[bool] = True
    chooses: ClassVar[bool] = True
    key: ClassVar[str] = ""

    def validate(self, path: str = "") -> None:
        """Checks a method of plain Python values, before anything compiles.

        Whether rules match parameters, and patterns fit them, is known only with the parameters: `plan` tells.

        Args:
          path: its address in the experiment, for messages.

        Raises:
          ConfigError: naming the field, the value and what is accepted.
        """
        check_types(self, path or self.name)

    def validate_with(self, context: "Context") -> None:
        """Checks what the method asks of the other methods, and of the optimizer, of a stage in which it acts.

        Raises:
          ConfigError: naming the field, the value and what is accepted.
        """

    def validate_length(self, path: str, *, begin: int, steps: int, last_update: int) -> None:
        """Checks that the method's schedule in its stage ends at or before the last step at which masks are chosen.

        Args:
          path: as for `validate`.
          begin: the step at which the stage starts.
          steps: its length.
          last_update: the step of its last update.

        Raises:
          ConfigError: naming the field, the value and what is accepted.
        """

    def settled_at(self, *, begin: int, steps: int, last_update: int) -> int:
        """The step from which on the method's schedule in its stage changes nothing; see `validate_length`.

        A stage is not stopped early before it.
        """
        del steps, last_update
        return begin

    @property
    def chosen_between_segments(self) -> bool:
        """Whether it chooses something for each layer that it then keeps: masks, codebooks, ranges."""
        return False

    def treats_equal_layers_alike(self) -> tuple[str, Any, str] | None:
        """Whether layers of equal weights stay equal under the method, which `jopt.cluster.Tie` asks.

        Returns:
          None if they do; else the field that is in the way, its value and what is accepted.
        """
        return None

    def splits_shared_values(self) -> tuple[str, Any, str] | None:
        """Whether the method makes several values of one that weights share, which `jopt.cluster.Share` asks.

        Returns:
          None if it does not; else the field that does it, its value and what is accepted.
        """
        return None

    def update_bytes(self, parameters: int) -> int:
        """The memory that choosing masks, codebooks or ranges takes, of parameters of so many bytes; an estimate.

        By default two copies of them: scores, and what is made of these.
        """
        return 2 * parameters

    def build(
        self, *, begin: int = 0, steps: int = 0, last_update: int | None = None, layers: Layers | None = None
    ) -> ParamTransform | None:
        """The transform of the parameters, for one stage. Pure; the method's numbers may be tracers.

        Args:
          begin: the step at which the stage starts.
          steps: its length.
          last_update: the step of the stage's last update; None: not known.
          layers: what the model says about its parameters; None: what their names and shapes say.

        Returns:
          A `ParamTransform`; None: the method leaves parameters alone.
        """
        return None

    def freeze(self, *, layers: Layers | None = None) -> ParamTransform | None:
        """The transform in later stages: masks, ranges, codebooks and trainables stay as they ended."""
        transform = self.build(layers=layers)
        return None if transform is None else hold(transform)

    def resume(self, fresh: State, previous: State, stage: str) -> State:
        """The state at the start of a stage that names the method again.

        Args:
          fresh: what `build(...).init` gives.
          previous: the state in which the method of this name ended the stage before.
          stage: the stage's name, for messages.

        Returns:
          A state of the structure of `fresh`; by default `fresh`: what was chosen is chosen again.
        """
        del previous, stage
        return fresh

    def plan(self, params: Params, layers: Layers | None = None) -> list[PlanRow]:
        """What the method does to each parameter, to be printed before a run.

        Args:
          params: a pytree of arrays, or of their shapes.
          layers: as for `build`.

        Returns:
          A row for each leaf, in leaf order; none: the method leaves parameters alone.

        Raises:
          RuleError: if a rule matches nothing.
          ValueError: where the method does not fit a parameter, naming it.
        """
        del params, layers
        return []

    def plan_inputs(self, model: "Model", x: "jax.ShapeDtypeStruct") -> list[InputRow]:
        """What the method does to the input of each layer, in call order. Nothing is computed.

        Args:
          model: the network, not yet wrapped.
          x: the shape of a batch.
        """
        del model, x
        return []

    def wrap(self, model: "Model", *, frozen: bool = False) -> "Model":
        """The network as the method makes it compute; where nothing in it but parameters changes, the same."""
        del frozen
        return model

    def calibration_examples(self) -> int:
        """How many training examples `calibrate` looks at; 0: it is not called."""
        return 0

    def calibrate(
        self, model: "Model", params: Params, model_state: ModelState, inputs: "jax.Array", *, seen: Params
    ) -> tuple[Params, Any]:
        """What the wrapped network starts the stage from, once its masks are chosen.

        Args:
          model: the network, not yet wrapped by this method.
          params: what the optimizer moves, this method's trainables under `key` included.
          model_state: of the wrapped network.
          inputs: so many normalized training examples as `calibration_examples` says.
          seen: what the network sees of `params`.

        Returns:
          `params` and `model_state` with this method's own numbers set.
        """
        del model, inputs, seen
        return params, model_state

    def check(self, state: State, seen: Params, layers: Layers | None = None) -> list[str]:
        """Checks the method's invariant at the end of its stage. Runs on the host.

        Args:
          state: the transform's state, of concrete arrays.
          seen: the parameters as the model sees them, after every other transform.
          layers: as for `build`.

        Returns:
          A sentence for each violated invariant; empty where all hold.
        """
        del state, seen, layers
        return []
