"""Which model, by name: the config, its validation and the registry."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from jopt.config import ConfigError, choice, join_path, require
from jopt.hyper import as_traced, known
from jopt.models.cnn import ConvNet, ResNet
from jopt.models.functional import Model, from_linen
from jopt.models.layers import ACTIVATIONS
from jopt.models.mlp import MLP, XOR, TiedMLP
from jopt.models.network import Network
from jopt.models.rnn import RNN
from jopt.typing import Activation

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass
class ModelConfig(Network):
    """A model of jopt's, by name.

    Attributes:
      name: see `docs/models.md`.
      features: sizes of its layers; () is the model's own. What they mean:
        `mlp`: hidden sizes, (300, 100) is LeNet-300-100. `tied_mlp`: hidden sizes, all the same, the second and
        later layers being one. `xor`: the hidden size. `lenet5`: two numbers of channels, one hidden size.
        `cifar10_cnn`: two numbers of channels, two hidden sizes. `cnn`: numbers of channels (`hidden` is apart).
        `rnn`, `gru`, `lstm`: the sizes of the stacked recurrent layers. `resnet18`: the width of the first stage.
        `linear` takes none.
      num_classes: the number of logits.
      activation: of the hidden layers; None is the model's own: relu, for `xor` sigmoid.
      dropout: rate, swept; None leaves it out of the program.
      dtype: of the computation, 'float32' or 'bfloat16'; parameters and logits are float32 in both.
      padding: of `lenet5` and `cifar10_cnn`: 'VALID', 'SAME', or None: 'VALID' where the input is big enough.
      hidden: of `cnn`: units of its fully connected layer; None is 64.
    """

    name: str = "mlp"
    features: tuple[int, ...] = ()
    num_classes: int = 10
    activation: str | None = None
    dropout: float | None = None
    dtype: str = "float32"
    padding: str | None = None
    hidden: int | None = None

    def validate(self, path: str = "model") -> None:
        """Checks that the fields describe a model."""
        super().validate(path)
        _validate(self, path)

    def model(self) -> Model:
        """`from_linen(build(config))`."""
        return from_linen(build(self))

    def hidden_activation(self) -> Activation:
        """What follows the hidden layers; recurrent ones have their own inside."""
        kind = _KINDS[self.name]
        default = "sigmoid" if self.name == "xor" else "relu"
        # Recurrent layers apply tanh and their gates themselves, so nothing follows them.
        inside = self.name == "linear" or kind.build is _recurrent
        return ACTIVATIONS["identity" if inside else self.activation or default]

    @property
    def label(self) -> str:
        """Its name."""
        return self.name


class _Kind(NamedTuple):
    """What a name stands for.

    `features` are the model's own, `count` how many it takes (None: any from 1), `options` the
    optional fields of `ModelConfig` that it reads.
    """

    build: Callable[[ModelConfig, dict[str, Any]], nn.Module]
    features: tuple[int, ...]
    count: int | None
    options: tuple[str, ...]


def _conv5(c: ModelConfig, common: dict[str, Any]) -> nn.Module:
    return ConvNet(c.features[:2], c.features[2:], kernel=5, padding=c.padding, **common)


def _recurrent(c: ModelConfig, common: dict[str, Any]) -> nn.Module:
    return RNN(c.name, c.features, **common)


_COMMON = ("activation", "dropout")

# `common` holds what every builder takes: the classes, the
# dtype and, where the kind has them, dropout and activation.
_KINDS: dict[str, _Kind] = {
    "linear": _Kind(lambda c, common: MLP((), **common), (), 0, ()),
    "mlp": _Kind(lambda c, common: MLP(c.features, **common), (300, 100), None, _COMMON),
    "tied_mlp": _Kind(
        lambda c, common: TiedMLP(c.features[0], len(c.features), **common), (64, 64, 64), None, _COMMON
    ),
    "xor": _Kind(
        lambda c, common: XOR(c.features[0], c.activation or "sigmoid", common["dtype"]),
        (3,),
        1,
        ("activation",),
    ),
    "lenet5": _Kind(_conv5, (20, 50, 500), 3, (*_COMMON, "padding")),
    "cifar10_cnn": _Kind(_conv5, (6, 16, 120, 84), 4, (*_COMMON, "padding")),
    "cnn": _Kind(
        lambda c, common: ConvNet(c.features, (c.hidden or 64,), **common),
        (16, 32),
        None,
        (*_COMMON, "hidden"),
    ),
    "rnn": _Kind(_recurrent, (64,), None, ("dropout",)),
    "gru": _Kind(_recurrent, (64,), None, ("dropout",)),
    "lstm": _Kind(_recurrent, (64,), None, ("dropout",)),
    "resnet18": _Kind(lambda c, common: ResNet(c.features[0], **common), (64,), 1, ("dropout",)),
}


def names() -> tuple[str, ...]:
    """The names that `ModelConfig.name` may be, sorted.

    Example:
      >>> "lenet5" in names()
      True
    """
    return tuple(sorted(_KINDS))


def validate(config: Network, path: str = "model") -> None:
    """Raises `jopt.config.ConfigError`, naming the field, if `config` is no model.

    Example:
      >>> validate(ModelConfig(name="lenet5", features=(20, 50)))
      Traceback (most recent call last):
      ...
      jopt.config.ConfigError: model.features must be 3 sizes for 'lenet5', or () for its own (20, 50, 500),
      got (20, 50)
    """
    config.validate(path)


def _validate(config: ModelConfig, path: str) -> None:
    def field(name: str) -> str:
        return join_path(path, name)

    choice(field("name"), config.name, _KINDS)
    kind = _KINDS[config.name]
    # An option that the model does not read is an error, or a sweep over it would compare equal models.
    for option in ("activation", "dropout", "padding", "hidden"):
        value = getattr(config, option)
        accepted = f"None: {config.name!r} has no {option}"
        require(option in kind.options or value is None, field(option), value, accepted)
    for i, size in enumerate(config.features):
        require(size >= 1, f"{field('features')}[{i}]", size, "at least 1")
    if config.features and kind.count is not None and len(config.features) != kind.count:
        count = kind.count
        accepted = f"{count} size{'s' * (count != 1)} for {config.name!r}, or () for its own {kind.features}"
        raise ConfigError(field("features"), config.features, accepted)
    # With two layers nothing would be tied, and layers of different sizes cannot be one.
    if config.name == "tied_mlp" and config.features:
        tied = len(config.features) >= 3 and len(set(config.features)) == 1
        require(tied, field("features"), config.features, "at least 3 sizes, all the same, for 'tied_mlp'")
    require(config.num_classes >= 1, field("num_classes"), config.num_classes, "at least 1")
    if config.name == "xor":
        require(config.num_classes == 2, field("num_classes"), config.num_classes, "2 for 'xor'")
    if config.activation is not None:
        choice(field("activation"), config.activation, ACTIVATIONS)
    if config.dropout is not None:
        # As the program sees it: 1 - 1e-12 is 1 in float32, and would divide by 0.
        fine = 0 <= as_traced(config.dropout) < 1
        require(fine, field("dropout"), config.dropout, "None or a number in [0, 1)")
    choice(field("dtype"), config.dtype, DTYPES)
    if config.padding is not None:
        choice(field("padding"), config.padding, ("SAME", "VALID"))
    if config.hidden is not None:
        require(config.hidden >= 1, field("hidden"), config.hidden, "at least 1")


def build(config: ModelConfig) -> nn.Module:
    """The Flax Linen module that `config` describes.

    Args:
      config: the config; `dropout` may be a tracer.

    Returns:
      A module: [batch, ...] and a keyword `train` to logits [batch, num_classes], of the dtype of computation.

    Raises:
      ConfigError: as `validate`, for concrete numbers.

    Example:
      >>> type(build(ModelConfig(name="lenet5"))).__name__
      'ConvNet'
    """
    # `dropout` may be a tracer, which `known` makes pass every check of its size.
    validate(known(config))
    kind = _KINDS[config.name]
    config = dataclasses.replace(config, features=tuple(config.features) or kind.features)
    common: dict[str, Any] = {"num_classes": config.num_classes, "dtype": DTYPES[config.dtype]}
    if "dropout" in kind.options:
        common["dropout"] = config.dropout
    if "activation" in kind.options:
        common["activation"] = config.activation or "relu"
    return kind.build(config, common)


def model(config: Network) -> Model:
    """The pure functions of the model that `config` describes.

    Example:
      >>> import jax
      >>> lenet_300_100 = model(ModelConfig(name="mlp", features=(300, 100)))
      >>> x = jnp.zeros((2, 28, 28, 1))
      >>> params, state = lenet_300_100.init(jax.random.key(0), x)
      >>> sum(leaf.size for leaf in jax.tree.leaves(params))
      266610
      >>> logits, state = lenet_300_100.apply(params, state, x, train=False)
      >>> logits.shape, str(logits.dtype)
      ((2, 10), 'float32')
    """
    return config.model()


def activation(config: Network) -> Activation:
    """What follows the hidden layers of the model that `config` describes; recurrent ones have their own inside.

    Example:
      >>> float(activation(ModelConfig(name="mlp", activation="tanh"))(jnp.float32(0.0)))
      0.0
    """
    return config.hidden_activation()
