"""What the models declare of themselves: sizes that are true, resized modules that fit, defaults that stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import coupling
from jopt.models import ModelConfig, ResNet, build, names
from jopt.rules import named_leaves

pytestmark = pytest.mark.unoptimized

CASES = {
    "mlp": ((12,), ()),
    "linear": ((12,), ()),
    "tied_mlp": ((12,), ()),
    "xor": ((2,), ()),
    "lenet5": ((8, 8, 1), (4, 5, 6)),
    "cifar10_cnn": ((16, 16, 3), (4, 5, 6, 7)),
    "cnn": ((8, 6, 1), (4, 5)),
    "rnn": ((5, 3), (6, 4)),
    "gru": ((5, 3), (6, 4)),
    "lstm": ((5, 3), (6, 4)),
    "resnet18": ((8, 8, 3), (4,)),
}


def module(name):
    _, features = CASES[name]
    return build(ModelConfig(name, features, num_classes=2 if name == "xor" else 10))


def shapes(model, shape):
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *shape))))
    return {path: leaf.shape for path, leaf in named_leaves(dict(variables))}


def sliced(declared):
    """For each array its axes and the group that they belong to, in coupling's words."""
    axes_of = {}
    for group in declared.groups:
        for point in group.points:
            for layer in point.writers:
                norm = layer.norm
                norm_paths = (
                    () if norm is None else (f"params/{norm.scale}", f"params/{norm.bias}", norm.mean, norm.var)
                )
                for path in (*(f"params/{p}" for p in (*layer.kernels, *layer.biases)), *norm_paths):
                    axes_of[path, -1] = group
            for reader in point.readers:
                axes_of[f"params/{reader.kernel}", -2] = group
    return axes_of


def test_every_name_is_tested():
    assert sorted(CASES) == sorted(names())


@pytest.mark.parametrize("name", CASES)
def test_resizing_changes_exactly_the_axes_that_are_declared(name):
    model, (shape, _) = module(name), CASES[name]
    declared = model.coupling()
    assert declared.resize({group.name: group.size for group in declared.groups}) is not model
    before = shapes(model, shape)
    axes = sliced(declared)
    for group in declared.groups:
        sizes = {other.name: other.size - (other is group) for other in declared.groups}
        smaller = declared.resize(sizes)
        assert type(smaller) is type(model)
        assert {g.name: g.size for g in smaller.coupling().groups} == sizes
        after = shapes(smaller, shape)
        assert after.keys() == before.keys()
        for path, old in before.items():
            expected = list(old)
            for axis in range(-len(old), 0):
                if axes.get((path, axis)) is group:
                    assert old[axis] % group.size == 0
                    expected[axis] -= old[axis] // group.size
            assert after[path] == tuple(expected), path


@pytest.mark.parametrize("name", CASES)
def test_every_axis_but_inputs_and_outputs_belongs_to_a_group(name):
    model, (shape, _) = module(name), CASES[name]
    axes = sliced(model.coupling())
    free = {(path, axis) for path, s in shapes(model, shape).items() for axis in (-1, -2) if len(s) >= -axis}
    free -= axes.keys()
    assert len({path for path, _ in free}) <= 3
    assert sum(axis == -1 for _, axis in free) == 2  # kernel and bias of the last layer
    assert sum(axis == -2 for _, axis in free) == 1  # the input's kernel


@pytest.mark.parametrize("name", CASES)
def test_the_example_fits_the_parameters(name):
    model, (shape, _) = module(name), CASES[name]
    before = shapes(model, shape)
    example = model.coupling().example(lambda path: before[f"params/{path}"])
    assert shapes(model, example[1:]) == before


def test_the_padding_of_an_input_is_known_from_it():
    model = build(ModelConfig("lenet5"))

    def reasons(x):
        return [reader.inexact for g in model.coupling(x).groups for p in g.points for reader in p.readers]

    def image(n):
        return jax.ShapeDtypeStruct((1, n, n, 1), jnp.float32)

    assert reasons(image(28)) == ["", "", ""]
    assert reasons(image(8)) == ["is read through zero padding", "", ""]
    assert reasons(None) == ["may be read through zero padding (give x)", "", ""]


def test_a_resnet_of_other_widths():
    model = ResNet(4, (2, 1), 3, streams=(5, 3), inner=(1, 2, 3))
    params = {path: s for path, s in shapes(model, (8, 8, 1)).items() if path.startswith("params")}
    assert params["params/Block_1/Conv_0/kernel"] == (3, 3, 5, 2)
    assert params["params/Block_1/Conv_1/kernel"] == (3, 3, 2, 5)
    assert params["params/Block_2/shortcut/kernel"] == (1, 1, 5, 3)
    assert params["params/Dense_0/kernel"] == (3, 3)
    assert "params/Block_0/shortcut/kernel" not in params


def test_a_stage_keeps_its_shortcut_where_shrinking_makes_the_shapes_agree():
    model = ResNet(4, (1, 1), 3, streams=(4, 4))
    assert "params/Block_1/shortcut/kernel" in shapes(model, (1, 1, 1))


def test_default_widths_are_those_of_width():
    explicit = ResNet(4, (2, 2), 3, streams=(4, 8), inner=(4, 4, 8, 8))
    assert shapes(ResNet(4, (2, 2), 3), (8, 8, 1)) == shapes(explicit, (8, 8, 1))


def test_a_folded_resnet_has_biases_and_no_state():
    arrays = shapes(ResNet(2, (1, 1), 3, folded=True), (8, 8, 1))
    assert all(path.startswith("params/") and "Norm" not in path for path in arrays)
    assert arrays["params/Block_1/shortcut/bias"] == (4,)
    layers = list(coupling.layers(ResNet(2, (1, 1), 3, folded=True).coupling()))
    assert len(layers) == 7 and not any(layer.norm for layer in layers)
    assert np.all([len(layer.biases) == 1 for layer in layers])
