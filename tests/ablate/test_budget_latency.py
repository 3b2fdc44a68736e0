"""Whose latency is measured: one network for all that have its shape, the smaller one where channels are pruned."""

from jopt.ablate.budget import latency
from jopt.ablate.trials import with_fields
from jopt.cluster import Share
from jopt.data import Synthetic
from jopt.models import ModelConfig as Model
from jopt.prune import Gradual
from jopt.quantize import Weights
from jopt.train import Experiment, Stage

LAST = (("Dense_2/kernel", None),)


def experiment(**fields):
    base = Experiment(
        model=Model(name="mlp", features=(16, 8), num_classes=4),
        data=Synthetic(shape=(6, 6, 1), num_classes=4, train=32),
        stages=[Stage("train", methods=(Gradual(sparsity=0.0, rules=LAST), Weights(bits=32)))],
    )
    return with_fields(base, {path.replace("__", "."): value for path, value in fields.items()})


PRUNE = "stages[0].prune"


def test_only_the_network_and_removed_channels_make_another_shape():
    dense = latency.shape_key(experiment())
    for fields in (
        {f"{PRUNE}.sparsity": 0.9},
        {"stages[0].quantize.bits": 2},
        {"stages[0].share": Share(clusters=4)},
        {"seed": 3},
        {f"{PRUNE}.pattern": "channel"},
    ):
        assert latency.shape_key(experiment(**fields)) == dense
    half = {f"{PRUNE}.pattern": "channel", f"{PRUNE}.sparsity": 0.5}
    others = [{"model.features": (8, 8)}, half, half | {f"{PRUNE}.sparsity": 0.75}]
    assert len({dense, *(latency.shape_key(experiment(**fields)) for fields in others)}) == 4


def test_pruned_channels_are_removed_before_the_time_is_taken():
    half = {f"{PRUNE}.pattern": "channel", f"{PRUNE}.sparsity": 0.75}
    model, params, state, x = latency.smallest(experiment(**half), 3)
    assert x.shape == (3, 6, 6, 1) and model.apply(params, state, x, train=False)[0].shape == (3, 4)
    assert [params[f"Dense_{i}"]["kernel"].shape for i in range(3)] == [(36, 4), (4, 2), (2, 4)]
