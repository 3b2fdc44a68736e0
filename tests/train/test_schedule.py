"""What runs when: lengths in steps, segments, evaluations and checkpoints."""

import pytest

from jopt.config import ConfigError
from jopt.train import Experiment, Stage
from jopt.train.schedule import StageSteps, batch_size, segments, stages


def test_an_epoch_is_the_default_segment_and_drops_the_remainder():
    config = Experiment(epochs=3, batch_size=30)
    assert stages(config, 100) == [StageSteps(0, 9, 3)]
    assert [(s.start, s.stop) for s in segments(config, 100)] == [(0, 3), (3, 6), (6, 9)]


def test_batch_size_zero_is_the_whole_training_part():
    assert batch_size(Experiment(batch_size=0), 100) == 100
    assert stages(Experiment(batch_size=0, epochs=4), 100) == [StageSteps(0, 4, 1)]


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError) as caught:
        batch_size(Experiment(batch_size=101), 100)
    assert (caught.value.field, caught.value.value) == ("batch_size", 101)
    assert " 100 " in caught.value.accepted


def test_stages_follow_one_another_and_take_what_they_lack_from_the_experiment():
    config = Experiment(
        epochs=2, batch_size=10, stages=[Stage("a"), Stage("b", steps=7), Stage("c", epochs=1)], segment_steps=5
    )
    assert stages(config, 100) == [StageSteps(0, 20, 5), StageSteps(20, 7, 5), StageSteps(27, 10, 5)]
    cut = [(s.stage, s.start, s.stop) for s in segments(config, 100)]
    assert cut[4:6] == [(1, 20, 25), (1, 25, 27)], "a stage's last segment may be shorter"
    assert cut[-1] == (2, 32, 37)


def test_evaluations_and_checkpoints_fall_on_multiples_and_on_stage_ends():
    config = Experiment(epochs=7, batch_size=100, evaluate_every=2, checkpoint_every=3)
    rows = list(segments(config, 100))
    assert [s.stop for s in rows if s.checkpoint] == [3, 6, 7]
    assert [s.stop for s in rows if s.evaluate] == [2, 3, 4, 6, 7], "a checkpoint always knows its accuracy"


def test_a_segment_is_never_longer_than_its_stage():
    assert stages(Experiment(batch_size=10, stages=[Stage(steps=3)]), 100) == [StageSteps(0, 3, 3)]
