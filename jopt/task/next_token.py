"""NextToken: language models."""

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jopt.config import require
from jopt.hyper import structural
from jopt.task.base import Task, targets_of
from jopt.task.classes import ACCURACY, check_classes, require_integers
from jopt.task.losses import cross_entropy
from jopt.task.metrics import Metric, mean, weighted_sums

if TYPE_CHECKING:
    from jopt.data import Dataset


@dataclasses.dataclass(frozen=True)
class NextToken(Task):
    """The next token at each position of a sequence.

    Targets are integers [examples, positions] in [0, vocabulary), the tokens that follow; positions below 0 do not
    count. Outputs are logits [examples, positions, vocabulary].

    Attributes:
      bytes_per_token: the mean number of bytes of text that a token stands for, which makes bits per byte of the
        loss: 1 for bytes; None: not known, and there is no `bits_per_byte`.

    Example:
      >>> logits, tokens = jnp.zeros((1, 3, 256)), jnp.array([[1, 2, -1]])
      >>> NextToken().mask(tokens).tolist()
      [[True, True, False]]
    """

    name: ClassVar[str] = "next_token"
    loss_unit: ClassVar[str] = "nats"
    bytes_per_token: float | None = structural(1.0)

    def validate(self, path: str = "task") -> None:
        """Checks the task's fields."""
        super().validate(path)
        fine = self.bytes_per_token is None or 0 < self.bytes_per_token < float("inf")
        require(fine, f"{path}.bytes_per_token", self.bytes_per_token, "a finite number above 0, or None")

    def check(self, dataset: "Dataset") -> None:
        """Checks that targets are tokens of the data set's vocabulary."""
        for name, targets in targets_of(dataset):
            accepted = "one token each position: integers [examples, positions]"
            require_integers(name, targets, accepted, np.ndim(targets) == 2)
            check_classes(name, np.maximum(targets, 0), dataset.num_classes)

    def output_shapes(self, dataset: "Dataset") -> tuple[tuple[int, ...], ...] | None:
        """`((positions, vocabulary),)`."""
        return ((*dataset.train.targets.shape[1:], dataset.num_classes or 0),)

    def losses(
        self, outputs: Float[Array, "batch positions vocabulary"], targets: Int[Array, "batch positions"]
    ) -> Float[Array, "batch positions"]:
        """Softmax cross-entropy of each position, in nats."""
        return cross_entropy(outputs, jnp.maximum(targets, 0).astype(jnp.int32))

    def mask(self, targets: Int[Array, "batch positions"]) -> Bool[Array, "batch positions"] | None:
        """Positions whose target is a token; None for unsigned tokens, of which all are."""
        return targets >= 0 if jnp.issubdtype(targets.dtype, jnp.signedinteger) else None

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """`bits_per_byte`, `perplexity`, and `accuracy`, the share of tokens that are predicted."""
        nats = self._nats
        perplexity = Metric("perplexity", "perplexity", nats, lambda s: np.exp(mean(s)), "lower", format=".4g")
        if self.bytes_per_token is None:
            return (perplexity, ACCURACY)
        scale = np.log(2.0) * self.bytes_per_token
        bits = Metric(
            "bits_per_byte", "bits per byte", self._nats, lambda s: mean(s) / scale, "lower", "bits", format=".4f"
        )
        return (bits, perplexity, ACCURACY)

    def predict(self, outputs: Float[Array, "batch positions vocabulary"]) -> Int[Array, "batch positions"]:
        """The token of the largest logit, int32."""
        return jnp.argmax(outputs, -1).astype(jnp.int32)

    def _nats(self, outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
        return weighted_sums(self.losses(outputs, targets), weights)
