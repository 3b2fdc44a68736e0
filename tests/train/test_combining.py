"""What may not be combined is refused before anything compiles, and named."""

import jax.numpy as jnp
import numpy as np
import pytest

from jopt import clip, cluster, models, optim, prune, quantize
from jopt.config import ConfigError
from jopt.train import Stage, compression, prepare

pytestmark = pytest.mark.unoptimized

DEEP = models.Config("mlp", features=(8, 8, 8), num_classes=4)
TIE = cluster.Tie(("Dense_[12]/kernel",))
ONE = "Dense_1/kernel"
SHARE = cluster.Share(clusters=4)


@pytest.mark.parametrize(
    ("changes", "optimizer", "field"),
    [
        ({}, {"learning_rate_rules": ((ONE, 0.5),)}, r"optimizer\.learning_rate_rules"),
        ({}, {"weight_decay_rules": ((ONE, 0.0),)}, r"optimizer\.weight_decay_rules"),
        ({}, {"freeze": (ONE,)}, r"optimizer\.freeze"),
        ({"clip": clip.Range(rules=((ONE, 0.5),))}, {}, r"stages\[0\]\.clip\.rules"),
        ({"quantize": quantize.Weights(rules=((ONE, 4),))}, {}, r"stages\[0\]\.quantize\.rules"),
        ({"share": cluster.Share(rules=((ONE, 4),))}, {}, r"stages\[0\]\.share\.rules"),
    ],
)
def test_rules_that_would_move_tied_parameters_apart_are_refused(tiny, changes, optimizer, field):
    config = tiny(model=DEEP, optimizer=optim.Config(**optimizer), stages=[Stage("a", methods=(TIE,), **changes)])
    with pytest.raises(ConfigError, match=rf"{field} must be the same for tied parameters, of which Dense_1"):
        prepare(config)


def test_rules_that_give_tied_parameters_the_same_are_fine(tiny):
    rules = ((".*/bias", 0.0), ("Dense_[12]/kernel", 0.5))
    stage = Stage("a", methods=(TIE, quantize.Weights(rules=(("Dense_0/kernel", 8),))))
    prepare(tiny(model=DEEP, optimizer=optim.Config(weight_decay_rules=rules), stages=[stage]))


@pytest.mark.parametrize(
    "first", [{"share": SHARE}, {"quantize": quantize.Weights(calibration=quantize.Percentile(90.0))}]
)
def test_layers_are_tied_before_codebooks_and_ranges_are_chosen_for_each(tiny, first):
    stages = [Stage("first", epochs=1, **first), Stage("tie", epochs=1, methods=(TIE,))]
    with pytest.raises(ConfigError, match=r"stages\[1\]\.tie must be in no later stage than 'first', whose"):
        prepare(tiny(model=DEEP, stages=stages))


@pytest.mark.parametrize(("method", "name"), [("one_shot", "begin"), ("gradual", "end")])
def test_a_sparsity_that_comes_too_late_names_the_field_that_says_so(tiny, method, name):
    own = prune.Config(method, sparsity=0.5, begin=0.9, end=1.0)
    message = rf"stages\[0\]\.prune\.{name} must be such that the sparsity is .* got {getattr(own, name)}"
    with pytest.raises(ConfigError, match=message):
        prepare(tiny(epochs=1, stages=[Stage("a", methods=(own,))]))


def test_codebooks_that_no_update_would_choose_are_refused(tiny):
    message = r"stages\[0\]\.share\.begin must be such that the codebooks are .* step 0 .* step 5; .* got 0\.9"
    with pytest.raises(ConfigError, match=message):
        prepare(tiny(epochs=1, stages=[Stage("a", methods=(cluster.Share(clusters=4, begin=0.9),))]))


def test_shared_weights_of_several_units_are_not_clipped_apart(tiny):
    config = tiny(optimizer=optim.Config(adaptive_clip=0.01), stages=[Stage("a", methods=(SHARE,))])
    with pytest.raises(ConfigError, match=r"optimizer\.adaptive_clip must be None where weights are shared"):
        prepare(config)


def test_tied_layers_draw_no_starts_of_their_own(tiny):
    config = tiny(model=DEEP, stages=[Stage("a", methods=(TIE, cluster.Share(clusters=4, start="kmeans++")))])
    with pytest.raises(ConfigError, match=r"stages\[0\]\.share\.start must be 'linear' or 'density' where"):
        prepare(config)


def test_a_codebook_of_an_earlier_stage_learns_at_once_what_is_pruned(tiny):
    late = cluster.Share(clusters=4, begin=0.9)
    config = tiny(stages=[Stage("share", methods=(late,)), Stage("prune", methods=(prune.OneShot(sparsity=0.5),))])
    params = {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal((6, 5)), jnp.float32)}
    first = compression.transform(config, 0, begin=0, steps=10)
    chosen = first.update(first.init(params), params, step=9)
    params = first.project(chosen, params)  # type: ignore[misc]
    second = compression.transform(config, 1, begin=10, steps=10)
    state = compression.carried(config, 1, second.init(params), chosen)
    state = second.update(state, params, step=10)
    held = second.project(state, params)  # type: ignore[misc]
    pruned = ~np.asarray(state[0].masks["kernel"])
    # What is held is what the model sees, also where `begin` of this stage is still to come.
    assert pruned.sum() == 15 and (np.asarray(held["kernel"])[pruned] == 0).all()
    np.testing.assert_array_equal(held["kernel"], second.apply(state, held)["kernel"])
