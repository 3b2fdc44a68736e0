"""What may not be combined is refused before anything compiles, and named."""

import jax.numpy as jnp
import numpy as np
import pytest

from jopt import clip, cluster, models, optim, prune, quantize
from jopt.config import ConfigError
from jopt.train import Stage, prepare
from jopt.train.prepared import resolve
from jopt.train.program import carry_over

pytestmark = pytest.mark.unoptimized

DEEP = models.ModelConfig("mlp", features=(8, 8, 8), num_classes=4)
TIE = cluster.Tie(("Dense_[12]/kernel",))
ONE = "Dense_1/kernel"
SHARE = cluster.Share(clusters=4)


@pytest.mark.parametrize(
    ("method", "optimizer", "field"),
    [
        (None, {"learning_rate_rules": ((ONE, 0.5),)}, "optimizer.learning_rate_rules"),
        (None, {"weight_decay_rules": ((ONE, 0.0),)}, "optimizer.weight_decay_rules"),
        (None, {"freeze": (ONE,)}, "optimizer.freeze"),
        (clip.Range(rules=((ONE, 0.5),)), {}, "stages[0].clip.rules"),
        (quantize.Weights(rules=((ONE, 4),)), {}, "stages[0].quantize.rules"),
        (cluster.Share(rules=((ONE, 4),)), {}, "stages[0].share.rules"),
    ],
)
def test_rules_that_would_move_tied_parameters_apart_are_refused(tiny, method, optimizer, field):
    config = tiny(
        model=DEEP,
        optimizer=optim.Config(**optimizer),
        stages=[Stage("a", methods=(TIE, *([method] if method else [])))],
    )
    with pytest.raises(ConfigError) as error:
        prepare(config)
    assert error.value.field == field


def test_rules_that_give_tied_parameters_the_same_are_fine(tiny):
    rules = ((".*/bias", 0.0), ("Dense_[12]/kernel", 0.5))
    stage = Stage("a", methods=(TIE, quantize.Weights(rules=(("Dense_0/kernel", 8),))))
    prepare(tiny(model=DEEP, optimizer=optim.Config(weight_decay_rules=rules), stages=[stage]))


@pytest.mark.parametrize("first", [SHARE, quantize.Weights(calibration=quantize.Percentile(90.0))])
def test_layers_are_tied_before_codebooks_and_ranges_are_chosen_for_each(tiny, first):
    stages = [Stage("first", epochs=1, methods=(first,)), Stage("tie", epochs=1, methods=(TIE,))]
    with pytest.raises(ConfigError) as error:
        prepare(tiny(model=DEEP, stages=stages))
    assert error.value.field == "stages[1].tie.groups"


@pytest.mark.parametrize(
    ("method", "name"),
    [(prune.OneShot(0.5, begin=0.9), "begin"), (prune.Gradual(0.5, begin=0.9, end=1.0), "end")],
)
def test_a_sparsity_that_comes_too_late_names_the_field_that_says_so(tiny, method, name):
    with pytest.raises(ConfigError) as error:
        prepare(tiny(epochs=1, stages=[Stage("a", methods=(method,))]))
    assert (error.value.field, error.value.value) == (f"stages[0].prune.{name}", getattr(method, name))


def test_codebooks_that_no_update_would_choose_are_refused(tiny):
    with pytest.raises(ConfigError, match=r"step 0 .* step 5;") as error:
        prepare(tiny(epochs=1, stages=[Stage("a", methods=(cluster.Share(clusters=4, begin=0.9),))]))
    assert (error.value.field, error.value.value) == ("stages[0].share.begin", 0.9)


def test_shared_weights_of_several_units_are_not_clipped_apart(tiny):
    config = tiny(optimizer=optim.Config(adaptive_clip=0.01), stages=[Stage("a", methods=(SHARE,))])
    with pytest.raises(ConfigError) as error:
        prepare(config)
    assert error.value.field == "optimizer.adaptive_clip"


def test_tied_layers_draw_no_starts_of_their_own(tiny):
    config = tiny(model=DEEP, stages=[Stage("a", methods=(TIE, cluster.Share(clusters=4, start="kmeans++")))])
    with pytest.raises(ConfigError) as error:
        prepare(config)
    assert error.value.field == "stages[0].share.start"


def test_a_codebook_of_an_earlier_stage_learns_at_once_what_is_pruned(tiny):
    late = cluster.Share(clusters=4, begin=0.9)
    stages = [Stage("share", methods=(late,), steps=10), Stage("prune", methods=(prune.OneShot(0.5),), steps=10)]
    first, second = resolve(tiny(stages=stages), 96)
    params = {"kernel": jnp.asarray(np.random.default_rng(0).standard_normal((6, 5)), jnp.float32)}
    chosen = first.transform.update(first.transform.init(params), params, step=9)
    params = first.transform.project(chosen, params)
    state = carry_over(second, second.transform.init(params), chosen)
    state = second.transform.update(state, params, step=10)
    projected = second.transform.project(state, params)
    pruned = ~np.asarray(state[0].masks["kernel"])
    # What is held is what the model sees, also where `begin` of this stage is still to come.
    assert pruned.sum() == 15 and (np.asarray(projected["kernel"])[pruned] == 0).all()
    np.testing.assert_array_equal(projected["kernel"], second.transform.apply(state, projected)["kernel"])
