"""Suite `convolutions`: forms are compared only where they agree."""

import numpy as np
import pytest

from benchmarks import convolutions
from benchmarks.convolutions import Layer, operands, shifted_products
from benchmarks.timing import Options
from jopt.models.convolution_forms import FORMS

pytestmark = pytest.mark.unoptimized

TINY = Layer(2, 5, 3, 2, 3, 2)


def test_shifted_products_are_the_output():
    x, kernel = operands(TINY, "output")
    expected = FORMS["output"]["native"](x, kernel, TINY.geometry)
    np.testing.assert_allclose(shifted_products(x, kernel, TINY.geometry), expected, atol=1e-5)


def test_there_is_a_row_for_each_sum_and_form_and_the_chosen_form_is_the_reference():
    rows = convolutions.convolutions(Options(repeats=1, seconds=0), (TINY,))
    assert [(row.case.rpartition(": ")[2], row.contender) for row in rows] == [
        ("output", "native"),
        ("output", "columns"),
        ("output", "shifted products"),
        ("input", "native"),
        ("input", "columns"),
        ("kernel", "native"),
        ("kernel", "columns"),
    ]
    assert {row.contender for row in rows if "ratio" not in row.values} == {"columns"}


def test_layers_are_named_by_their_shapes():
    assert TINY.name == "2 x 5x5x3 to 2, 3x3, stride 2"
    assert len({layer.name for layer in convolutions.LAYERS}) == len(convolutions.LAYERS)
