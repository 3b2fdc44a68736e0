import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jopt.config import ConfigError
from jopt.measure import Column, IntegerCode, StageOutcome, columns_of, load_columns, size, stage_rows, trial_row

LABELS = np.array([0, 1, 2, 3])
DENSE = {"Dense_0": {"bias": jnp.array([1.0, 2.0]), "kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}}
PRUNED = {"Dense_0": {"bias": jnp.array([1.0, 2.0]), "kernel": jnp.array([[0.0, 0.0], [0.0, 4.0]])}}


def test_rows_by_hand():
    outcomes = [
        StageOutcome("dense", DENSE, {"accuracy": 0.75, "loss": 0.5}, np.array([0, 1, 2, 0])),
        StageOutcome("prune", PRUNED, {"accuracy": jnp.float32(0.5), "loss": np.float64(1.0)}, [0, 1, 3, 1]),
        StageOutcome("quantize", PRUNED, {"loss": float("nan")}, [0, 1, 2, 3], latent=DENSE),
    ]
    dense, prune, quantize = stage_rows(outcomes, LABELS, {"Dense_0": 8, "": 3})
    assert dense == {
        **{"stage": "dense", "accuracy": 0.75, "loss": 0.5, "accuracy_change": 0.0, "churn": 0.0},
        **{"parameters": 6, "nonzero_parameters": 6, "sparsity": 0.0, "distinct_values": 4},
        **{"bits_per_parameter": 32.0, "theoretical_bytes": 24, "flops": 11, "effective_flops": 11},
    }
    # The kernel: an index of 2 bits, and 32 bits; the bias 64.
    assert prune["bits_per_parameter"] == (2 + 32 + 64) / 6 and prune["theoretical_bytes"] == 13
    assert (prune["accuracy_change"], prune["churn"], prune["effective_flops"]) == (-0.25, 0.5, 5)
    assert (prune["sparsity"], prune["distinct_values"], prune["flops"]) == (0.5, 2, 11)
    assert (quantize["accuracy"], quantize["accuracy_change"], quantize["loss"]) == (1.0, 0.25, None)
    assert quantize["sqnr_db"] == pytest.approx(10 * np.log10(35 / 14))
    assert json.loads(json.dumps([dense, prune, quantize], allow_nan=False)) == [dense, prune, quantize]


def test_agrees_with_size():
    (row,) = stage_rows([StageOutcome("a", PRUNED)])
    assert (row["parameters"], row["nonzero_parameters"], row["sparsity"]) == size(PRUNED)[:3]
    assert {"accuracy", "churn", "flops", "sqnr_db", "accuracy_change"}.isdisjoint(row)


def test_nothing_rounded_is_no_number_in_json():
    (row,) = stage_rows([StageOutcome("a", DENSE, latent=DENSE)])
    assert row["sqnr_db"] is None


def test_a_stage_may_change_shapes_flops_and_grid():
    small = {"Dense_0": {"kernel": np.float32([[1.0, 2.0, 3.0, 4.0, 5.0]] * 20)}}
    rows = stage_rows(
        [
            StageOutcome("dense", DENSE),
            StageOutcome("shrink", small, flops={"Dense_0": 4}, grids={"Dense_0/kernel": IntegerCode(3)}),
        ],
        flops={"Dense_0": 8},
    )
    assert [row["flops"] for row in rows] == [8, 4] and rows[1]["parameters"] == 100
    assert rows[1]["bits_per_parameter"] == (300 + 32) / 100


def test_no_stages_and_other_examples():
    assert stage_rows([]) == []
    with pytest.raises(ValueError, match=r"class.*example.*\b2 .*\b1 "):
        stage_rows([StageOutcome("a", DENSE, {}, [0, 1]), StageOutcome("b", DENSE, {}, [0])])


NORM = Column(
    "weights_norm", "norm of the weights", "", None, ".3f", lambda m: float(np.linalg.norm(m.outcome.params["w"]))
)
SECRET = Column("secret", "never known", compute=lambda m: None)


def test_columns_from_outside_are_in_the_rows_of_stages_and_trials():
    outcome = StageOutcome("a", {"w": np.float32([[3.0, 4.0]])}, {"accuracy": 0.5})
    (row,) = stage_rows([outcome], columns=[NORM, SECRET])
    assert row["weights_norm"] == 5.0 and "secret" not in row
    trial = trial_row(outcome, columns=[NORM])
    assert trial["weights_norm"] == 5.0 and trial["accuracy"] == 0.5 and "churn" not in trial
    assert [column.key for column in columns_of("trial", [NORM])][-1] == "weights_norm"


def no_number(measured):
    return "text"


def test_a_column_that_fails_is_null_and_told_of():
    mine = [
        Column("wrong", "no key", compute=lambda m: m.outcome.params["absent"]),
        Column("text", "a", compute=no_number),
    ]
    outcomes, heard = [StageOutcome(name, {"w": np.float32([[3.0, 4.0]])}) for name in ("a", "b")], []
    rows = stage_rows(outcomes, columns=[*mine, NORM], failed=lambda *told: heard.append(told))
    assert [(row["wrong"], row["text"], row["weights_norm"]) for row in rows] == [(None, None, 5.0)] * 2
    assert [told[:2] for told in heard] == [(key, stage) for stage in "ab" for key in ("wrong", "text")]
    assert [type(error) for *_, error in heard] == [KeyError, ConfigError] * 2
    assert trial_row(outcomes[0], columns=mine, failed=lambda *told: None)["wrong"] is None


def test_a_built_in_column_that_fails_is_a_defect_and_no_warning():
    many: Any = "many"
    broken = StageOutcome("a", {"w": np.float32([1.0])}, bytes=many)
    with pytest.raises(ConfigError) as caught:
        stage_rows([broken], failed=lambda *told: None)
    assert caught.value.value == "bytes"


def test_columns_are_imported_by_their_name():
    (column,) = load_columns([f"{__name__}:NORM"])
    assert column == NORM


@pytest.mark.parametrize("name", ["nowhere", "no.such.module:x", f"{__name__}:absent", f"{__name__}:LABELS", ":x"])
def test_names_that_are_no_columns_are_refused(name):
    with pytest.raises(ConfigError) as error:
        load_columns([name])
    assert (error.value.field, error.value.value) == ("columns", name)


def test_a_key_belongs_to_one_column():
    for columns in ([Column("bytes", "mine")], [NORM, NORM]):
        with pytest.raises(ConfigError) as error:
            columns_of("stage", columns)
        assert error.value.field == "columns"


@pytest.mark.parametrize(
    "field, changes",
    [
        ("column.key", {"key": "two words"}),
        ("column a.label", {"label": ""}),
        ("column a.better", {"better": "bigger"}),
        ("column a.format", {"format": "percentage"}),
        ("column a.scopes", {"scopes": ("epoch",)}),
    ],
)
def test_bad_columns_are_refused(field, changes):
    with pytest.raises(ConfigError) as error:
        Column(**{"key": "a", "label": "a", **changes})
    assert error.value.field == field


def test_trials_keep_their_columns():
    """Programs read trials.csv by these names and in this order."""
    assert [column.key for column in columns_of("trial")] == [
        "accuracy", "loss", "validation_accuracy", "validation_loss", "train_loss", "parameters",
        "nonzero_parameters", "sparsity", "theoretical_bytes", "bytes", "bits_per_parameter", "flops",
        "effective_flops",
    ]  # fmt: skip
