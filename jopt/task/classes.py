"""Tasks whose targets are classes: one class an example, several labels an example, one class a position."""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jopt.config import require
from jopt.hyper import as_traced, structural
from jopt.task.base import Task, targets_of
from jopt.task.losses import binary_cross_entropy, cross_entropy
from jopt.task.metrics import Metric, mean, weighted_sums

if TYPE_CHECKING:
    from jopt.data import Dataset


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """One class each example: softmax cross-entropy, and the share of right classes.

    Targets are integers [examples] in [0, classes), outputs logits [examples, classes].

    Attributes:
      label_smoothing: this share of the target is spread evenly over the classes (Szegedy et al. 2016, section 7),
        in training only; None: none.

    Example:
      >>> task = Classification()
      >>> float(task.losses(jnp.zeros((1, 4)), jnp.array([2]))[0]) == float(jnp.log(4.0))
      True
    """

    name: ClassVar[str] = "classification"
    loss_unit: ClassVar[str] = "nats"
    label_smoothing: float | None = None

    def validate(self, path: str = "task") -> None:
        """Checks the task's fields."""
        super().validate(path)
        _check_smoothing(self.label_smoothing, path)

    def check(self, dataset: "Dataset") -> None:
        """Checks that there is one class of the data set for each example."""
        for name, targets in targets_of(dataset):
            require_integers(name, targets, "one class each example: integers [examples]", np.ndim(targets) == 1)
            check_classes(name, targets, dataset.num_classes)

    def output_shapes(self, dataset: "Dataset") -> tuple[tuple[int, ...], ...] | None:
        """`((classes,),)`."""
        return ((dataset.num_classes or 0,),)

    def losses(
        self, outputs: Float[Array, "batch classes"], targets: Int[Array, " batch"]
    ) -> Float[Array, " batch"]:
        """Softmax cross-entropy in nats, without smoothing."""
        return cross_entropy(outputs, targets)

    def training_losses(
        self, outputs: Float[Array, "batch classes"], targets: Int[Array, " batch"]
    ) -> Float[Array, " batch"]:
        """Softmax cross-entropy in nats, of the smoothed labels."""
        return cross_entropy(outputs, targets, self.label_smoothing)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """`accuracy`."""
        return (ACCURACY,)

    def predict(self, outputs: Float[Array, "batch classes"]) -> Int[Array, " batch"]:
        """The class of the largest logit, int32."""
        return jnp.argmax(outputs, -1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class SequenceLabelling(Task):
    """One class each position of an example: tags of words, classes of pixels.

    Targets are integers [examples, positions, ...] in [0, classes); positions below 0 do not count. Outputs are
    logits [examples, positions, ..., classes].

    Attributes:
      label_smoothing: as `Classification.label_smoothing`.
    """

    name: ClassVar[str] = "sequence_labelling"
    loss_unit: ClassVar[str] = "nats"
    label_smoothing: float | None = None

    def validate(self, path: str = "task") -> None:
        """Checks the task's fields."""
        super().validate(path)
        _check_smoothing(self.label_smoothing, path)

    def check(self, dataset: "Dataset") -> None:
        """Checks that there is one class of the data set, or a number below 0, for each position."""
        for name, targets in targets_of(dataset):
            accepted = "one class each position: integers [examples, positions]"
            require_integers(name, targets, accepted, np.ndim(targets) >= 2)
            check_classes(name, np.maximum(targets, 0), dataset.num_classes)

    def output_shapes(self, dataset: "Dataset") -> tuple[tuple[int, ...], ...] | None:
        """`((positions, classes),)`."""
        return ((*dataset.train.targets.shape[1:], dataset.num_classes or 0),)

    def losses(
        self, outputs: Float[Array, "batch ... classes"], targets: Int[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """Softmax cross-entropy of each position, in nats."""
        return cross_entropy(outputs, jnp.maximum(targets, 0))

    def training_losses(
        self, outputs: Float[Array, "batch ... classes"], targets: Int[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """The same, of the smoothed labels."""
        return cross_entropy(outputs, jnp.maximum(targets, 0), self.label_smoothing)

    def mask(self, targets: Int[Array, "batch ..."]) -> Bool[Array, "batch ..."]:
        """Positions whose target is a class."""
        return targets >= 0

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """`accuracy`, and `f1`, the mean over the classes that occur."""
        return (ACCURACY, Metric("f1", "macro F1", _class_counts, _macro_f1_of_present, format="percent"))

    def predict(self, outputs: Float[Array, "batch ... classes"]) -> Int[Array, "batch ..."]:
        """The class of the largest logit at each position, int32."""
        return jnp.argmax(outputs, -1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class MultiLabel(Task):
    """Any number of labels each example: sigmoid cross-entropy, averaged over the labels.

    Targets are 0 and 1 (any dtype) [examples, labels], outputs logits [examples, labels].

    Attributes:
      threshold: a label is predicted where its probability is above it.
    """

    name: ClassVar[str] = "multi_label"
    loss_unit: ClassVar[str] = "nats"
    threshold: float = structural(0.5)

    def validate(self, path: str = "task") -> None:
        """Checks the task's fields."""
        super().validate(path)
        require(0 < self.threshold < 1, f"{path}.threshold", self.threshold, "a number in (0, 1)")

    def check(self, dataset: "Dataset") -> None:
        """Checks that targets are a matrix of zeros and ones."""
        from jopt.data.cache import DataError

        for name, targets in targets_of(dataset):
            shape = getattr(targets, "shape", None)
            fine = shape is not None and len(shape) == 2 and bool(np.isin(targets, (0, 1)).all())
            if not fine:
                accepted = "0 or 1 for each label: [examples, labels]"
                shown = f"{getattr(targets, 'dtype', type(targets).__name__)}{list(shape or ())}"
                message = f"{name} must be {accepted}, got {shown}"
                raise DataError(message, field=name, value=shown, accepted=accepted)

    def output_shapes(self, dataset: "Dataset") -> tuple[tuple[int, ...], ...] | None:
        """`((labels,),)`."""
        return (dataset.train.targets.shape[1:],)

    def losses(
        self, outputs: Float[Array, "batch labels"], targets: Float[Array, "batch labels"]
    ) -> Float[Array, " batch"]:
        """The mean over the labels of the sigmoid cross-entropy, in nats."""
        return binary_cross_entropy(outputs, jnp.asarray(targets, jnp.float32)).mean(-1)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """`f1` and `f1_micro` (means over labels, and over all decisions), `exact_match`, and `auc` over labels."""
        return (
            Metric("f1", "macro F1", self._counts, lambda s: _f1(s).mean(), format="percent"),
            Metric("f1_micro", "micro F1", self._counts, _micro_f1, format="percent"),
            Metric("exact_match", "exact match", self._exact, mean, format="percent"),
            Metric("auc", "area under the ROC curve", _scores, _auc, format=".4f", per_example=True),
        )

    def predict(self, outputs: Float[Array, "batch labels"]) -> Int[Array, "batch labels"]:
        """1 where the probability of a label is above the threshold, int32."""
        return (outputs > float(np.log(self.threshold / (1 - self.threshold)))).astype(jnp.int32)

    def _counts(self, outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
        chosen, true, w = self.predict(outputs) > 0, targets > 0, weights[:, None]
        return _confusion(chosen, true, w)

    def _exact(self, outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
        right = (self.predict(outputs) == targets.astype(jnp.int32)).all(-1)
        return weighted_sums(right.astype(jnp.float32), weights)


def _accuracy(outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    return weighted_sums(
        (jnp.argmax(outputs, -1).astype(jnp.int32) == targets.astype(jnp.int32)).astype(jnp.float32), weights
    )


ACCURACY = Metric("accuracy", "accuracy", _accuracy, mean, format="percent")
"""The share of right classes, of examples or of positions."""


def _class_counts(outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    classes = outputs.shape[-1]
    chosen, true = (jax.nn.one_hot(x, classes, dtype=jnp.bool_) for x in (jnp.argmax(outputs, -1), targets))
    flat = [x.reshape(-1, x.shape[-1]) for x in (chosen, true, weights[..., None])]
    return _confusion(*flat)


def _confusion(chosen: jax.Array, true: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    """True positives, false positives and false negatives of each label, from bool [rows, labels]."""
    return {
        "true_positives": jnp.where(chosen & true, weights, 0).sum(0),
        "false_positives": jnp.where(chosen & ~true, weights, 0).sum(0),
        "false_negatives": jnp.where(~chosen & true, weights, 0).sum(0),
    }


def _f1(counts: dict[str, np.ndarray]) -> np.ndarray:
    """F1 of each label; 0 where it neither occurs nor is predicted, as scikit-learn has it."""
    hits, wrong = counts["true_positives"], counts["false_positives"] + counts["false_negatives"]
    return np.divide(2 * hits, 2 * hits + wrong, out=np.zeros_like(hits), where=2 * hits + wrong > 0)


def _macro_f1_of_present(counts: dict[str, np.ndarray]) -> float:
    present = sum(counts.values()) > 0
    return float(_f1(counts)[present].mean()) if np.any(present) else 0.0


def _micro_f1(counts: dict[str, np.ndarray]) -> float:
    return float(_f1({name: value.sum(keepdims=True) for name, value in counts.items()})[0])


def _scores(outputs: jax.Array, targets: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    return {"scores": outputs, "targets": targets > 0, "weights": weights}


def _auc(rows: dict[str, np.ndarray]) -> float:
    """The mean area under the ROC curve of the labels that have examples of both kinds; NaN if none has."""
    # Imported here: scikit-learn takes half a second, and few tasks need it.
    from sklearn.metrics import roc_auc_score

    counted = rows["weights"] > 0
    scores, targets, weights = (rows[name][counted] for name in ("scores", "targets", "weights"))
    both = [i for i in range(targets.shape[1]) if 0 < targets[:, i].sum() < len(targets)]
    areas = [roc_auc_score(targets[:, i], scores[:, i], sample_weight=weights) for i in both]
    return float(np.mean(areas)) if areas else float("nan")


def _check_smoothing(smoothing: float | None, path: str) -> None:
    fine = smoothing is None or 0 < as_traced(smoothing) < 1
    require(fine, f"{path}.label_smoothing", smoothing, "in (0, 1) or None")


def require_integers(name: str, targets: Any, accepted: str, fine: bool) -> None:
    """Raises DataError unless targets are integers of the right shape."""
    from jopt.data.cache import DataError

    array = isinstance(targets, np.ndarray)
    if not fine or not array or not np.issubdtype(targets.dtype, np.integer):
        shown = f"{targets.dtype}{list(targets.shape)}" if array else type(targets).__name__
        raise DataError(f"{name} must be {accepted}, got {shown}", field=name, value=shown, accepted=accepted)


def check_classes(name: str, targets: np.ndarray, classes: int | None) -> None:
    """Raises DataError for a target that is not in [0, classes)."""
    from jopt.data.cache import DataError
    from jopt.data.examples import LabelError, check_labels

    try:
        check_labels(targets, classes or 0, name)
    except LabelError as error:
        raise DataError(str(error), field=name, value=error.value, accepted=error.accepted) from error
