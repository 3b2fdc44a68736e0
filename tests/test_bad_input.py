"""Bad input: each is a clear error before anything compiles and before anything is written."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jopt import clip, cluster, data, distill, models, optim, prune, quantize, transfer
from jopt.config import ConfigError, from_dict, leaves, to_dict
from jopt.data import DataError
from jopt.rules import RuleError
from jopt.train import Experiment, Stage, run
from jopt.train.checkpoint import CheckpointError, Checkpoints
from jopt.train.workdir import Workdir, WorkdirError
from jopt.transform import chain

NAN, INF = math.nan, math.inf
SET = data.Synthetic(shape=(8, 8, 1), num_classes=4, train=96, validation=40, test=24)


def experiment(**changes) -> Experiment:
    config = Experiment(
        name="tiny",
        model=models.Config(name="mlp", features=(16,), num_classes=4),
        data=data.Config(name="synthetic", synthetic=SET),
        epochs=2,
        batch_size=16,
    )
    return dataclasses.replace(config, **changes)


def of_optimizer(*args, **fields) -> Experiment:
    return experiment(optimizer=optim.Config(*args, **fields))


def of_model(name="mlp", **fields) -> Experiment:
    return experiment(model=models.Config(name=name, **{"num_classes": 4, **fields}))


def of_data(**fields) -> Experiment:
    return experiment(data=data.Config(**{"name": "synthetic", "synthetic": SET, **fields}))


def of_set(**fields) -> Experiment:
    return of_data(synthetic=dataclasses.replace(SET, **fields))


def of_stages(*stages) -> Experiment:
    return experiment(stages=list(stages))


def of_stage(**fields) -> Experiment:
    return of_stages(Stage(**fields))


def pruned(*args, **fields) -> Experiment:
    return of_stage(prune=prune.Config(*args, **fields))


def shared(**fields) -> Experiment:
    return of_stage(share=cluster.Share(**fields))


def tied(*groups) -> Experiment:
    return of_stage(tie=cluster.Tie(groups))


def quantized(*args, **fields) -> Experiment:
    return of_stage(quantize=quantize.Config(*args, **fields))


def activated(*args, **fields) -> Experiment:
    return of_stage(activations=quantize.ActivationConfig(*args, **fields))


def clipped(**fields) -> Experiment:
    return of_stage(clip=clip.Range(None=fields))


def taught(**fields) -> Experiment:
    lesson = distill.Config(**{"teacher": "stage:teacher", **fields})
    return of_stages(Stage("teacher"), Stage("student", methods=(lesson,)))


def taken(source="stage:other", **fields) -> Experiment:
    return of_stages(Stage("other"), Stage("here", transfer=transfer.Transfer(source, None=fields)))


def sequence(model) -> Experiment:
    return dataclasses.replace(of_data(layout="sequence"), model=models.Config(name=model, num_classes=4))


# Name to (config, its error's text). The text begins with the field, and says what is accepted and what came.
CONFIGS = {
    # Experiment
    "seed_negative": (experiment(seed=-1), "seed must be an integer in [0, 2**32), got -1"),
    "seed_too_large": (experiment(seed=2**32), "seed must be an integer in [0, 2**32), got 4294967296"),
    "seed_float": (experiment(seed=1.0), "seed must be of type int, got 1.0"),
    "seed_bool": (experiment(seed=True), "seed must be of type int, got True"),
    "epochs_zero": (experiment(epochs=0), "epochs must be a positive integer, got 0"),
    "batch_negative": (experiment(batch_size=-1), "batch_size must be positive, or 0 for all examples, got -1"),
    "batch_too_large": (experiment(batch_size=97), "batch_size must be at most the 96 training examples, got 97"),
    "batch_of_subset": (
        dataclasses.replace(of_data(train_examples=8), batch_size=9),
        "batch_size must be at most the 8 training examples, got 9",
    ),
    "batch_indivisible": (
        experiment(batch_size=12, data_parallel=True),
        "batch_size must be a multiple of the 8 local devices that data_parallel splits it over, got 12",
    ),
    "smoothing_one": (experiment(label_smoothing=1.0), "label_smoothing must be in (0, 1) or None, got 1.0"),
    "smoothing_zero": (experiment(label_smoothing=0.0), "label_smoothing must be in (0, 1) or None, got 0.0"),
    "smoothing_nan": (experiment(label_smoothing=NAN), "label_smoothing must be in (0, 1) or None, got nan"),
    "ema_one": (experiment(ema_decay=1.0), "ema_decay must be in (0, 1) or None, got 1.0"),
    "ema_negative": (experiment(ema_decay=-0.5), "ema_decay must be in (0, 1) or None, got -0.5"),
    "segment_zero": (experiment(segment_steps=0), "segment_steps must be a positive integer, got 0"),
    "evaluate_zero": (experiment(evaluate_every=0), "evaluate_every must be a positive integer, got 0"),
    "checkpoint_zero": (experiment(checkpoint_every=0), "checkpoint_every must be a positive integer, got 0"),
    "keep_negative": (experiment(keep_checkpoints=-1), "keep_checkpoints must be a positive integer, got -1"),
    "model_of_another_kind": (experiment(model=optim.Config()), "model must be of type Config, got Config(name="),
    # Stage
    "stages_empty": (of_stages(), "stages must be a list of at least one Stage, got []"),
    "stages_of_text": (of_stages("train"), "stages must be of type list["),
    "stage_names_equal": (
        of_stages(Stage("a"), Stage("a")),
        "stages[0].name must be another name than the other stages', got 'a'",
    ),
    "stage_unnamed": (of_stages(Stage("")), "stages[0].name must be not empty, got ''"),
    "stage_epochs_and_steps": (
        of_stages(Stage("a"), Stage("b", epochs=1, steps=2)),
        "stages[1].steps must be None where epochs is given (epochs is 1), got 2",
    ),
    "stage_steps_negative": (of_stages(Stage(steps=-2)), "stages[0].steps must be 0 or a positive integer, got -2"),
    "stage_epochs_negative": (of_stages(Stage(epochs=-3)), "stages[0].epochs must be a positive integer, got -3"),
    "stage_optimizer": (
        of_stages(Stage(optimizer=optim.Config(decay=1.0))),
        "stages[0].optimizer.decay must be a number in [0, 1), got 1.0",
    ),
    # optim.Config
    "optimizer_unknown": (of_optimizer("adm"), "optimizer.name must be one of 'adagrad', 'adam', "),
    "variant_unknown": (
        of_optimizer(variant="papr"),
        "optimizer.variant must be one of 'optax', 'paper', got 'papr'",
    ),
    "variant_without_paper": (
        of_optimizer("momentum", variant="paper"),
        "optimizer.variant must be 'optax' for 'momentum' ('paper' exists for 'adagrad', 'adam', 'rmsprop')",
    ),
    "schedule_unknown": (of_optimizer(schedule="cos"), "optimizer.schedule must be one of 'constant', 'cosine', "),
    **{
        f"learning_rate_{value}": (
            of_optimizer(learning_rate=value),
            f"optimizer.learning_rate must be a finite number above 0, got {value}",
        )
        for value in (-1.0, 0.0, NAN, INF)
    },
    "learning_rate_text": (
        of_optimizer(learning_rate="0.1"),
        "optimizer.learning_rate must be of type float, got '0.1'",
    ),
    "momentum_one": (of_optimizer(momentum=1.0), "optimizer.momentum must be a number in [0, 1), got 1.0"),
    "momentum_negative": (of_optimizer(momentum=-0.1), "optimizer.momentum must be a number in [0, 1), got -0.1"),
    "b2_above_one": (of_optimizer(b2=1.5), "optimizer.b2 must be a number in [0, 1), got 1.5"),
    "eps_zero": (of_optimizer(eps=0.0), "optimizer.eps must be a finite number above 0, got 0.0"),
    "weight_decay_negative": (
        of_optimizer(weight_decay=-1e-4),
        "optimizer.weight_decay must be a finite number, at",
    ),
    "l1_infinite": (of_optimizer(l1=INF), "optimizer.l1 must be a finite number, at least 0, got inf"),
    **{
        f"{name}_zero": (
            of_optimizer(**{name: 0.0}),
            f"optimizer.{name} must be a finite number above 0 (None for no clipping), got 0.0",
        )
        for name in ("clip_by_global_norm", "clip_by_value", "adaptive_clip")
    },
    "warmup_negative": (
        of_optimizer(warmup_steps=-1),
        "optimizer.warmup_steps must be a number of steps, at least 0",
    ),
    "warmup_beyond_decay": (
        of_optimizer(schedule="cosine", warmup_steps=12, decay_steps=5),
        "optimizer.warmup_steps must be less than decay_steps (5), got 12",
    ),
    "boundaries_falling": (
        of_optimizer(schedule="step", boundaries=(0.75, 0.5)),
        "optimizer.boundaries must be increasing fractions in (0, 1), got (0.75, 0.5)",
    ),
    "decay_rate_zero": (of_optimizer(decay_rate=0.0), "optimizer.decay_rate must be a number in (0, 1], got 0.0"),
    "accumulate_zero": (
        of_optimizer(accumulate_steps=0),
        "optimizer.accumulate_steps must be a number of steps, at",
    ),
    "freeze_no_pattern": (
        of_optimizer(freeze=("(",)),
        "optimizer.freeze[0] must be a regular expression (missing )",
    ),
    "rule_value_negative": (
        of_optimizer(weight_decay_rules=((".*", -1.0),)),
        "optimizer.weight_decay_rules[0] must be a finite multiplier, at least 0, got -1.0",
    ),
    "rule_value_text": (
        of_optimizer(learning_rate_rules=((".*", "x"),)),
        "optimizer.learning_rate_rules must be of type tuple[tuple[str, float], ...], got (('.*', 'x'),)",
    ),
    "rule_not_in_a_tuple": (
        of_optimizer(learning_rate_rules=(".*", 0.5)),
        "optimizer.learning_rate_rules must be of type tuple[tuple[str, float], ...], got ('.*', 0.5)",
    ),
    # models.Config
    "model_unknown": (of_model("resnet"), "model.name must be one of 'cifar10_cnn', 'cnn', "),
    "num_classes_of_other_data": (
        of_model(num_classes=5),
        "model.num_classes must be 4, the number of classes of 'synthetic', got 5",
    ),
    "num_classes_zero": (of_model(num_classes=0), "model.num_classes must be at least 1, got 0"),
    "features_negative": (of_model(features=(16, -1)), "model.features[1] must be at least 1, got -1"),
    "features_fraction": (of_model(features=(1.5,)), "model.features must be of type tuple[int, ...], got (1.5,)"),
    "features_number": (of_model(features=16), "model.features must be of type tuple[int, ...], got 16"),
    "features_count": (
        of_model("lenet5", features=(20, 50)),
        "model.features must be 3 sizes for 'lenet5', or () for its own (20, 50, 500), got (20, 50)",
    ),
    "features_of_linear": (of_model("linear", features=(3,)), "model.features must be 0 sizes for 'linear'"),
    "features_untied": (
        of_model("tied_mlp", features=(8, 8, 9)),
        "model.features must be at least 3 sizes, all the",
    ),
    "activation_unknown": (of_model(activation="rleu"), "model.activation must be one of 'elu', 'gelu', "),
    "activation_unread": (
        of_model("gru", activation="relu"),
        "model.activation must be None: 'gru' has no activation",
    ),
    "dropout_one": (of_model(dropout=1.0), "model.dropout must be None or a number in [0, 1), got 1.0"),
    "dropout_nan": (of_model(dropout=NAN), "model.dropout must be None or a number in [0, 1), got nan"),
    "dtype_unknown": (of_model(dtype="float16"), "model.dtype must be one of 'bfloat16', 'float32', got 'float16'"),
    "padding_lower_case": (
        of_model("lenet5", padding="same"),
        "model.padding must be one of 'SAME', 'VALID', got 'same'",
    ),
    "padding_unread": (of_model(padding="SAME"), "model.padding must be None: 'mlp' has no padding, got 'SAME'"),
    "hidden_zero": (of_model("cnn", hidden=0), "model.hidden must be at least 1, got 0"),
    # data.Config and data.Synthetic
    "data_unknown": (
        of_data(name="digit"),
        "data.name must be one of 'digits', 'synthetic', 'xor', or a TFDS catalog",
    ),
    "data_unnamed": (of_data(name=""), "data.name must be one of 'digits', 'synthetic', 'xor'"),
    "layout_unknown": (of_data(layout="rows"), "data.layout must be 'image' ([h, w, c]) or 'sequence'"),
    "validation_zero": (
        of_data(validation_fraction=0.0),
        "data.validation_fraction must be a number in (0, 1), got 0.0",
    ),
    "subset_too_large": (
        of_data(train_examples=97),
        "data.train_examples must be None or at most 96, the size of the training part, got 97",
    ),
    "subset_empty": (
        of_data(train_examples=0),
        "data.train_examples must be None or a number of examples > 0, got 0",
    ),
    "shift_negative": (of_data(shift=-1), "data.shift must be a number of pixels >= 0, got -1"),
    "shift_twice": (of_data(shift=1, crop_padding=1), "data.crop_padding must be 0 where shift is 1"),
    "flip_of_sequences": (
        of_data(layout="sequence", flip=True),
        "data.flip must be off unless the inputs are images",
    ),
    "directory_below_a_file": (
        of_data(name="digits", data_dir="/etc/passwd/sets"),
        "data.data_dir must be a directory that can be made and written (/etc/passwd is in the way)",
    ),
    "set_shape_zero": (
        of_set(shape=(0, 8, 1)),
        "data.synthetic.shape must be three sizes > 0: (height, width, chan",
    ),
    "set_shape_flat": (
        of_set(shape=(8, 8)),
        "data.synthetic.shape must be of type tuple[int, int, int], got (8, 8)",
    ),
    "set_of_one_class": (
        of_set(num_classes=1),
        "data.synthetic.num_classes must be a number of classes >= 2, got 1",
    ),
    "set_without_tests": (of_set(test=0), "data.synthetic.test must be a number of examples > 0, got 0"),
    "set_noise_negative": (
        of_set(noise=-1.0),
        "data.synthetic.noise must be a finite standard deviation >= 0, got -1.0",
    ),
    "set_seed_negative": (of_set(seed=-1), "data.synthetic.seed must be an integer in [0, 2**32), got -1"),
    # What the parts do not see but their sum does, and what float32 and int32 make of numbers
    "steps_beyond_int32": (experiment(epochs=2**30, segment_steps=2**30), "epochs"),
    "segments_without_number": (
        experiment(epochs=10**7),
        "segment_steps must be long enough that the run has at most 1000000 segments, and not 10000000, got None",
    ),
    "warmup_beyond_int32": (of_optimizer(warmup_steps=2**31), "optimizer.warmup_steps must be a number of steps"),
    "warmup_beyond_stage": (
        of_optimizer(schedule="cosine", warmup_steps=12),
        "optimizer.warmup_steps must be less",
    ),
    "warmup_never_ends": (of_optimizer(warmup_steps=13), "optimizer.warmup_steps must be"),
    "accumulate_beyond_stage": (of_optimizer(accumulate_steps=13), "optimizer.accumulate_steps must be at most"),
    "stage_warmup_beyond_stage": (
        of_stages(Stage("a"), Stage("b", steps=5, optimizer=optim.Config(schedule="linear", warmup_steps=5))),
        "stages[1].optimizer.warmup_steps must be less",
    ),
    "learning_rate_inf_as_float32": (of_optimizer(learning_rate=1e39), "optimizer.learning_rate must be a finite"),
    "learning_rate_zero_as_float32": (
        of_optimizer(learning_rate=1e-50),
        "optimizer.learning_rate must be a finite",
    ),
    "momentum_one_as_float32": (
        of_optimizer("momentum", momentum=1 - 1e-12),
        "optimizer.momentum must be a number",
    ),
    "ema_one_as_float32": (experiment(ema_decay=1 - 1e-12), "ema_decay must be in (0, 1)"),
    "dropout_one_as_float32": (of_model(dropout=1 - 1e-12), "model.dropout must be None or a number in [0, 1)"),
    "features_list": (of_model(features=[16]), "model.features must be of type tuple[int, ...], got [16]"),
    "stages_tuple": (experiment(stages=(Stage(),)), "stages must be of type list["),
    "lenet_too_small": (of_model("lenet5", padding="VALID"), "model.name must be a model for inputs of 8 x 8 x 1"),
    "cnn_too_deep": (of_model("cnn", features=(4,) * 5), "model.name must be a model for inputs of 8 x 8 x 1"),
    "cnn_on_sequences": (sequence("cnn"), "model.name must be a model for inputs of 8 x 8"),
    "resnet_on_sequences": (sequence("resnet18"), "model.name must be a model for inputs of 8 x 8"),
    "shift_of_all_pixels": (of_data(shift=8), "data.shift must be less than"),
    "set_noise_infinite": (of_set(noise=INF), "data.synthetic.noise must be a finite standard deviation"),
    # prune.Config
    **{
        f"prune_{field}_{value}": (
            pruned(**{field: value}),
            f"stages[0].prune.{field} must be a number in [0, 1), got {value}",
        )
        for field, value in (
            ("sparsity", NAN),
            ("sparsity", 1 - 1e-12),  # 1 as a float32
            ("initial_sparsity", -0.1),
            ("begin", 1.0),
            ("drop_fraction", INF),
        )
    },
    "prune_score_unknown": (pruned(score="magnitud"), "stages[0].prune.score must be one of 'activation', 'l2', "),
    "prune_pattern_unknown": (pruned(pattern="2:4"), "stages[0].prune.pattern must be one of 'block', 'channel', "),
    "prune_budget_unknown": (pruned(budget="erdos"), "stages[0].prune.budget must be one of 'erk', 'global', "),
    "prune_initial_above_last": (
        pruned(sparsity=0.5, initial_sparsity=0.6),
        "stages[0].prune.initial_sparsity must be at most sparsity (0.5), got 0.6",
    ),
    "prune_end_before_begin": (
        pruned(begin=0.5, end=0.25),
        "stages[0].prune.end must be None or a number in [begin, 1], begin being 0.5, got 0.25",
    ),
    "prune_end_beyond_stage": (
        pruned(end=1.5),
        "stages[0].prune.end must be None or a number in [begin, 1], begin being",
    ),
    "prune_rounds_zero": (pruned("iterative", rounds=0), "stages[0].prune.rounds must be an integer, at least 1"),
    "prune_n_zero": (pruned("one_shot", pattern="nm", n=0), "stages[0].prune.n must be an integer, at least 1"),
    "prune_n_equals_m": (
        pruned("one_shot", pattern="nm", n=4, m=4),
        "stages[0].prune.m must be above n (4), got 4",
    ),
    "prune_n_above_m": (pruned("one_shot", pattern="nm", n=5), "stages[0].prune.m must be above n (5), got 4"),
    "prune_block_flat": (
        pruned(pattern="block", block=(4, 0)),
        "stages[0].prune.block must be one or more integers, at least 1, got (4, 0)",
    ),
    "prune_block_empty": (pruned(pattern="block", block=()), "stages[0].prune.block must be one or more integers"),
    "prune_rule_sparsity": (
        pruned(rules=((".*kernel", 1.2),)),
        "stages[0].prune.rules[0] must be a sparsity in [0, 1), or None to leave it alone, got 1.2",
    ),
    "prune_rule_no_pattern": (
        pruned(rules=(("Dense_0/.*", None), ("(", 0.5))),
        "stages[0].prune.rules[1] must be a regular expression (missing )",
    ),
    "prune_nm_gradual": (
        pruned("gradual", pattern="nm"),
        "stages[0].prune.method must be 'one_shot' for pattern 'nm', whose sparsity cannot grow, got 'gradual'",
    ),
    "prune_nm_global": (
        pruned("one_shot", pattern="nm", budget="global"),
        "stages[0].prune.budget must be 'layer' for pattern 'nm', which leaves nothing to share out, got 'global'",
    ),
    "prune_nm_with_a_sparsity": (
        pruned("one_shot", pattern="nm", rules=((".*", 0.5),)),
        "stages[0].prune.rules[0] must be (path, None): 'nm' has a sparsity of its own, 0.5, got ('.*', 0.5)",
    ),
    "prune_rigl_by_l2": (
        pruned("rigl", score="l2"),
        "stages[0].prune.score must be 'magnitude' for method 'rigl', which drops by it, got 'l2'",
    ),
    "prune_set_in_blocks": (
        pruned("set", pattern="block"),
        "stages[0].prune.pattern must be 'unstructured' for method 'set', which drops and grows single weights",
    ),
    "prune_rigl_global": (
        pruned("rigl", budget="global"),
        "stages[0].prune.budget must be 'layer' or 'erk' for method 'rigl', whose layers keep their counts",
    ),
    "prune_activation_of_weights": (
        pruned(score="activation"),
        "stages[0].prune.pattern must be 'channel' for score 'activation', which is one number a neuron",
    ),
    "prune_activation_of_inputs": (
        pruned(score="activation", pattern="channel", axis=-2),
        "stages[0].prune.axis must be None for score 'activation', got -2",
    ),
    "prune_movement_unmoved": (
        pruned("one_shot", score="movement"),
        "stages[0].prune.begin must be above 0 for score 'movement', which must have seen steps before",
    ),
    "prune_segments_too_long": (
        of_stage(prune=prune.Gradual(end=0.75), segment_steps=12),
        "stages[0].prune.end must be such that the sparsity is reached at step 0 or before, where the stage's last",
    ),
    # cluster.Config and cluster.tying.Config
    "share_one_value": (
        shared(clusters=1),
        "stages[0].share.clusters must be an integer in [2, 4096] (one value is zero: keep_zero), got 1",
    ),
    "share_no_value": (
        shared(clusters=0, keep_zero=False),
        "stages[0].share.clusters must be an integer in [1, 4096], got 0",
    ),
    "share_too_many_values": (
        shared(clusters=4097),
        "stages[0].share.clusters must be an integer in [2, 4096] (one",
    ),
    "share_start_unknown": (shared(start="kmeans"), "stages[0].share.start must be one of 'density', 'kmeans++', "),
    "share_gradient_unknown": (
        shared(gradient="max"),
        "stages[0].share.gradient must be one of 'mean', 'sum', got",
    ),
    "share_sum_untrained": (
        shared(gradient="sum", trained=False),
        "stages[0].share.gradient must be 'mean' where trained is False, got 'sum'",
    ),
    "share_iterations_negative": (
        shared(iterations=-1),
        "stages[0].share.iterations must be a number of at least 0, got -1",
    ),
    "share_begin_after_stage": (shared(begin=1.0), "stages[0].share.begin must be a fraction in [0, 1), got 1.0"),
    "share_rule_one_value": (
        shared(rules=((".*kernel", 1),)),
        "stages[0].share.rules[0] must be an integer in [2, 4096] (one value is zero: keep_zero), got 1",
    ),
    "share_rule_no_pattern": (shared(rules=(("[", 4),)), "stages[0].share.rules[0] must be a regular expression"),
    "tie_nothing": (tied(), "stages[0].tie.groups must be patterns of one or more groups, got ()"),
    "tie_no_pattern": (tied("Dense_0/.*", "*"), "stages[0].tie.groups[1] must be a regular expression (nothing to"),
    # quantize.Config
    "quantize_bits_negative": (
        quantized(bits=-1),
        "stages[0].quantize.bits must be 1 to 8, 16, or 32, which changes nothing, got -1",
    ),
    "quantize_bits_12": (
        quantized(bits=12),
        "stages[0].quantize.bits must be 1 to 8, 16, or 32, which changes nothing, got 12",
    ),
    "quantize_granularity": (
        quantized(granularity="row"),
        "stages[0].quantize.granularity must be one of 'channel',",
    ),
    "quantize_calibration": (
        quantized(calibration="max"),
        "stages[0].quantize.calibration must be one of 'absmax', ",
    ),
    **{
        f"quantize_percentile_{q}": (
            quantized(calibration="percentile", percentile=q),
            f"stages[0].quantize.percentile must be a number in (0, 100], got {q}",
        )
        for q in (0.0, 100.5, NAN)
    },
    "quantize_threshold_negative": (
        quantized("ternary", threshold=-0.1),
        "stages[0].quantize.threshold must be a finite number, at least 0, got -0.1",
    ),
    "quantize_group_absent": (
        quantized(granularity="group"),
        "stages[0].quantize.group must be an integer, at least 1, for granularity 'group', got None",
    ),
    "quantize_group_zero": (
        quantized(granularity="group", group=0),
        "stages[0].quantize.group must be an integer, at",
    ),
    "quantize_ternary_groups": (
        quantized("ternary", granularity="group", group=4),
        "stages[0].quantize.granularity must be 'tensor' or 'channel' for scheme 'ternary', got 'group'",
    ),
    "quantize_sign_with_a_range": (
        quantized(bits=1, calibration="mse"),
        "stages[0].quantize.calibration must be 'auto' or 'absmax' at one bit, where the scale is the",
    ),
    "quantize_rule_bits": (quantized(rules=((".*", 9),)), "stages[0].quantize.rules[0] must be 1 to 8, 16, 32"),
    "quantize_rule_no_pattern": (quantized(rules=(("(", 4),)), "stages[0].quantize.rules[0] must be a regular"),
    # quantize.ActivationConfig
    "activations_method": (
        activated("ema"),
        "stages[0].activations.method must be one of 'absmax', 'lsq', 'moving",
    ),
    "activations_bits": (
        activated(bits=17),
        "stages[0].activations.bits must be 1 to 8, 16, 32 (which changes nothing) or None, got 17",
    ),
    "activations_median": (
        activated(percentile=50.0),
        "stages[0].activations.percentile must be a percentage in (50, 100], got 50.0",
    ),
    "activations_momentum": (
        activated("moving_average", momentum=1.0),
        "stages[0].activations.momentum must be a number in [0, 1), got 1.0",
    ),
    "activations_examples": (activated(examples=0), "stages[0].activations.examples must be at least 1, got 0"),
    "activations_rule_bits": (
        activated(rules=((".*", 0),)),
        "stages[0].activations.rules[0] must be 1 to 8, 16, 32",
    ),
    # clip.Config
    "clip_high_negative": (clipped(high=-0.5), "stages[0].clip.high must be a finite number, at least 0, got -0.5"),
    "clip_low_nan": (clipped(low=NAN), "stages[0].clip.low must be a finite number, at most 0, got nan"),
    "clip_to_zero": (
        clipped(low=0.0, high=0.0),
        "stages[0].clip.high must be above low (0.0): else every weight is zero, got 0.0",
    ),
    "clip_rule_zero": (
        clipped(rules=((".*", 0.0),)),
        "stages[0].clip.rules[0] must be a finite factor above 0, or None, got 0.0",
    ),
    # distill.Config
    "teacher_absent": (
        taught(teacher=""),
        "stages[1].distill.teacher must be the directory of a finished run, or stage:<name of an earlier stage>",
    ),
    "teacher_unnamed": (
        taught(teacher="stage:"),
        "stages[1].distill.teacher must be the directory of a finished run",
    ),
    "teacher_is_the_student": (
        taught(teacher="stage:student"),
        "stages[1].distill.teacher must be a run's directory or stage:NAME of an earlier stage (teacher), got",
    ),
    **{
        f"temperature_{value}": (
            taught(temperature=value),
            f"stages[1].distill.temperature must be a finite number above 0, got {value}",
        )
        for value in (0.0, -1.0, 1e-50, INF)
    },
    "distill_weight": (taught(weight=1.5), "stages[1].distill.weight must be a number in [0, 1], got 1.5"),
    "distill_loss_unknown": (taught(loss="kl"), "stages[1].distill.loss must be one of 'mse', 'soft', got 'kl'"),
    "features_without_weight": (
        taught(features=(("Dense_0", "Dense_0"),)),
        "stages[1].distill.feature_weight must be above 0 where features are given, got 0.0",
    ),
    "features_weight_of_nothing": (
        taught(feature_weight=1.0),
        "stages[1].distill.feature_weight must be 0 where no features are given, got 1.0",
    ),
    "features_twice": (
        taught(features=(("a", "b"), ("a", "b")), feature_weight=1.0),
        "stages[1].distill.features[1] must be another pair than those before it, got ('a', 'b')",
    ),
    # transfer.Config
    "transfer_without_source": (taken(""), "stages[1].transfer.source must be the directory of a finished run, or"),
    "transfer_from_a_later_stage": (
        taken("stage:here"),
        "stages[1].transfer.source must be a run's directory or stage:NAME of an earlier stage (other), got",
    ),
    "transfer_group_absent": (
        taken(rules=((r"Dense_(\d)/.*", r"Dense_\2/kernel"),)),
        "stages[1].transfer.rules[0] must be a path with groups of 'Dense_",
    ),
    "transfer_freeze_no_pattern": (
        taken(freeze=("(",)),
        "stages[1].transfer.freeze[0] must be a regular expression",
    ),
    # What stages make of one another
    "release_of_nothing": (
        of_stage(release=("prune",)),
        "stages[0].release must be a method that acts in the stage before (none does), got 'prune'",
    ),
    "release_twice": (
        of_stages(Stage("a", methods=(clip.Range(),)), Stage("b", release=("clip",)), Stage("c", release=("clip",))),
        "stages[2].release must be a method that acts in the stage before (none does), got 'clip'",
    ),
    "start_of_no_stage": (
        of_stage(start="train"),
        "stages[0].start must be one of 'init', 'previous', 'random', got",
    ),
    "order_unknown": (
        experiment(order=("tie", "prune", "share", "quantise")),
        "order must be some order of tie, prune, share, quantize, got",
    ),
    "share_then_ternary_channels": (
        of_stages(
            Stage("share", methods=(cluster.Share(),)),
            Stage("ternary", methods=(quantize.Ternary(granularity="channel"),)),
        ),
        "stages[1].quantize.granularity must be 'tensor' where weights are shared",
    ),
}

# Rules name the pattern; what is accepted is one that matches, so the parameters are listed.
RULES = {
    "freeze_matches_nothing": (
        of_optimizer(freeze=("nope",)),
        "optimizer.freeze: rule 'nope' matches no parameter",
    ),
    "rate_rule_matches_nothing": (
        of_optimizer(learning_rate_rules=(("Conv.*", 0.5),)),
        "optimizer.learning_rate_rules: rule 'Conv.*' matches no",
    ),
    "part_of_a_path": (of_optimizer(weight_decay_rules=(("bias", 0.0),)), "rule 'bias' matches no parameter"),
    "hidden_rule": (
        of_optimizer(learning_rate_rules=((".*", 0.5), (".*kernel", 0.1))),
        "rule '.*kernel' is hidden behind the rules before it",
    ),
    "rule_of_a_later_stage": (
        of_stages(Stage("a"), Stage("b", optimizer=optim.Config(freeze=("Dense_9/.*",)))),
        "stages[1].optimizer.freeze: rule 'Dense_9/.*' matches no parameter",
    ),
    "prune_rule_hidden": (
        pruned("one_shot", rules=((".*kernel", 0.5), ("Dense_0/kernel", 0.9))),
        "rule 'Dense_0/kernel' is hidden behind the rules before it",
    ),
    "tie_matches_nothing": (tied("Conv_[01]/kernel"), "Conv_[01]/kernel' matches no parameter"),
    "transfer_freezes_nothing": (taken(freeze=("head/.*",)), "rule 'head/.*' matches no parameter"),
}


PARAMS = {"Dense_0": {"bias": jnp.zeros(4), "kernel": jnp.arange(24.0).reshape(6, 4)}}
BROKEN = {"Dense_0": {"bias": jnp.zeros(4), "kernel": jnp.zeros((6, 4)).at[1, 2].set(NAN)}}
TWO = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((3, 2))}


def started(transform, params=PARAMS):
    return transform.init(params)


def updated(transform, params=PARAMS, **more):
    return transform.update(transform.init(params), params, step=0, **more)


def applied(transform, params=PARAMS):
    return transform.apply(transform.init(params), params)


def moved(target, **fields):
    """The plan of taking a kernel of 2 x 3 into `target`."""
    return transfer.plan(transfer.Transfer("runs/big", None=fields), target, {"a": jnp.zeros((2, 3))})


# Name to (what is called, its error, the error's text).
CALLS = {
    # prune
    "sparsity_one": (lambda: prune.one_shot(1.0), ValueError, "sparsity must lie in [0, 1), got 1.0"),
    "sparsity_negative": (lambda: prune.keep_count(10, -0.1), ValueError, "sparsity must lie in [0, 1), got -0.1"),
    "sparsity_absent": (lambda: prune.one_shot(), ValueError, "sparsity must lie in [0, 1), got None"),
    "sparsity_of_a_rule": (
        lambda: started(prune.one_shot(0.5, rules=[("Dense_0/kernel", 1.2)])),
        ValueError,
        "sparsity must lie in [0, 1), got 1.2 for rule 'Dense_0/kernel'",
    ),
    "sparsity_of_nm": (
        lambda: prune.one_shot(0.75, pattern=prune.NM(2, 4)),
        ValueError,
        "NM(n=2, m=4, axis=-1) fixes sparsity at 0.5: give None, got 0.75",
    ),
    "score_unknown": (
        lambda: prune.one_shot(0.5, score="l1"),
        ValueError,
        "score must be one of 'magnitude', 'l2', ",
    ),
    "budget_unknown": (lambda: prune.one_shot(0.5, budget="all"), ValueError, "budget must be one of 'layer', "),
    "begin_negative": (
        lambda: prune.one_shot(0.5, begin=-1),
        ValueError,
        "begin must be a step, at least 0, got -1",
    ),
    "end_before_begin": (
        lambda: prune.gradual(0.5, begin=5, end=2),
        ValueError,
        "end must be a step, at least begin (5), got 2",
    ),
    "initial_sparsity_above": (
        lambda: prune.gradual(0.5, begin=0, end=9, initial_sparsity=0.6),
        ValueError,
        "initial_sparsity must be at most sparsity (0.5), got 0.6",
    ),
    "nm_gradual": (
        lambda: prune.gradual(0.5, begin=0, end=9, pattern=prune.NM(2, 4)),
        ValueError,
        "pattern of gradual must be one whose sparsity can grow, got NM(n=2, m=4, axis=-1): use one_shot",
    ),
    "rounds_zero": (
        lambda: prune.iterative(0.5, begin=0, end=9, rounds=0),
        ValueError,
        "rounds must be at least 1, got 0",
    ),
    "rigl_in_channels": (
        lambda: prune.rigl(0.5, end=9, pattern=prune.Channel()),
        ValueError,
        "pattern of RigL must be Unstructured(): it drops and grows single weights, got Channel(axis=-1)",
    ),
    "drop_fraction_one": (
        lambda: prune.set_evolution(0.5, end=9, drop_fraction=1.0),
        ValueError,
        "drop_fraction must lie in [0, 1), got 1.0",
    ),
    "n_above_m": (lambda: prune.NM(5, 4), ValueError, "NM(n, m) must have integers 1 <= n <= m, got n=5, m=4"),
    "n_fraction": (lambda: prune.NM(0.5, 4), ValueError, "NM(n, m) must have integers 1 <= n <= m, got n=0.5, m=4"),
    "block_of_nothing": (lambda: prune.Block(()), ValueError, "Block's shape must be one or more integers of at"),
    "m_does_not_divide": (
        lambda: started(prune.one_shot(pattern=prune.NM(2, 4, axis=-2))),
        ValueError,
        "Dense_0/kernel: NM(n=2, m=4, axis=-2) must divide axis 0 of shape (6, 4), whose size is 6",
    ),
    "block_does_not_divide": (
        lambda: started(prune.one_shot(0.5, pattern=prune.Block((2, 3)))),
        ValueError,
        "Dense_0/kernel: Block(shape=(2, 3)) must divide axis 1 of shape (6, 4), whose size is 4",
    ),
    "block_of_more_axes": (
        lambda: started(prune.one_shot(0.5, pattern=prune.Block((1, 2, 2)))),
        ValueError,
        "Dense_0/kernel: Block(shape=(1, 2, 2)) needs a tensor of at least 3 axes, got shape (6, 4)",
    ),
    "channel_of_no_axis": (
        lambda: started(prune.one_shot(0.5, pattern=prune.Channel(2))),
        ValueError,
        "Dense_0/kernel: Channel(axis=2) needs an axis that a tensor of shape (6, 4) does not have",
    ),
    "nan_pruned": (
        lambda: updated(prune.one_shot(0.5), BROKEN),
        ValueError,
        "Dense_0/kernel: weights, gradients and scores must be numbers, got NaN in 1 of 24 entries",
    ),
    "nan_scores": (
        lambda: prune.top_k_mask(jnp.array([1.0, NAN]), 0.5),
        ValueError,
        "scores must be numbers, got NaN in 1 of 2 entries",
    ),
    "count_too_large": (
        lambda: prune.keep_top(jnp.ones(3), 4),
        ValueError,
        "count must lie in [0, 3], the number of groups, got 4",
    ),
    "grads_absent": (
        lambda: updated(prune.one_shot(0.5, score="saliency")),
        ValueError,
        "'saliency' reads grads: update(..., grads=...) must have it, got None",
    ),
    "key_absent": (
        lambda: updated(prune.set_evolution(0.5, end=9)),
        ValueError,
        "'SET' reads key: update(..., key=...) must have it, got None",
    ),
    "layers_of_another_model": (
        lambda: updated(prune.one_shot(0.5, score="wanda"), layers={"Conv_0": None}),
        ValueError,
        "Dense_0/kernel: 'wanda' reads its layer's statistics; there are those of Conv_0",
    ),
    "rule_of_pruning": (
        lambda: started(prune.one_shot(0.5, rules=[("Dense_1/.*", 0.9)])),
        RuleError,
        "rule 'Dense_1/.*' matches no parameter; the parameters are: Dense_0/bias, Dense_0/kernel",
    ),
    "nothing_to_prune": (
        lambda: started(prune.one_shot(0.5), {"bias": jnp.zeros(3)}),
        ValueError,
        "no parameter is pruned: none is a floating weight, or has a rule; there are: bias (bias, assumed)",
    ),
    "integers_pruned": (
        lambda: started(prune.one_shot(0.5, rules=[("count", 0.5)]), {"count": jnp.zeros(3, jnp.int32)}),
        ValueError,
        "count: a pruned parameter must be floating, got int32 for rule 'count'",
    ),
    # cluster
    "clusters_one": (
        lambda: started(cluster.share(1)),
        ValueError,
        "clusters must be an integer in [2, 4096] (one value is zero: keep_zero), got 1",
    ),
    "clusters_fraction": (
        lambda: cluster.kmeans(jnp.ones(3), 2.5),
        ValueError,
        "k must be an integer in [1, 4096]",
    ),
    "start_unknown": (lambda: cluster.share(4, start="forgy"), ValueError, "start must be one of 'linear', "),
    "gradient_unknown": (
        lambda: cluster.share(4, gradient="max"),
        ValueError,
        "gradient must be one of 'mean', 'sum'",
    ),
    "drawn_without_key": (
        lambda: updated(cluster.share(4, start="kmeans++")),
        ValueError,
        "start 'kmeans++' draws its centroids: update needs a key",
    ),
    "nan_shared": (
        lambda: updated(cluster.share(4), BROKEN),
        ValueError,
        "Dense_0/kernel must be finite, got 1 entries that are not",
    ),
    "tied_alone": (
        lambda: started(cluster.tie(["Dense_0/bias"])),
        RuleError,
        "group 'Dense_0/bias' must match two or more parameters, got only Dense_0/bias float32[4]",
    ),
    "tied_unequal": (
        lambda: started(cluster.tie(["a|b"]), TWO),
        RuleError,
        "group 'a|b' must match parameters of one shape and dtype, got a float32[2, 3], b float32[3, 2]",
    ),
    # clip
    "range_above_zero": (
        lambda: clip.clip(0.5, 1.0),
        ValueError,
        "low must be at most 0 (zero stays zero), got 0.5",
    ),
    "range_below_zero": (
        lambda: clip.clip_params(PARAMS, -1.0, -0.5),
        ValueError,
        "high must be at least 0 (zero stays zero), got -0.5",
    ),
    "range_nan": (lambda: clip.clip(NAN, 1.0), ValueError, "low must be at most 0 (zero stays zero), got nan"),
    "range_factor": (
        lambda: clip.clip_params(PARAMS, rules=[(".*kernel", -1.0)]),
        ValueError,
        "rule '.*kernel' must give a finite factor above 0 or None, got -1.0",
    ),
    # quantize
    **{
        f"bits_{bits}": (
            lambda bits=bits: quantize.Spec(bits),
            ValueError,
            f"bits must be 1 to 8, 16, 32 (which changes nothing) or None, got {bits}",
        )
        for bits in (0, 9, 4.0, True)
    },
    "bits_of_an_array": (
        lambda: quantize.fake_quantize(jnp.ones(3), quantize.Spec(np.array(12))),
        ValueError,
        "bits must be 1 to 8, 16, 32 (which changes nothing) or None, got 12",
    ),
    "group_zero": (
        lambda: quantize.Spec(4, group=0),
        ValueError,
        "group must be None or an integer, at least 1, got 0",
    ),
    "group_does_not_divide": (
        lambda: applied(quantize.weights(quantize.Spec(4, axis=-1, group=4))),
        ValueError,
        "Dense_0/kernel: group must divide the 6 entries of shape (6, 4) outside the kept axes (1,), got 4",
    ),
    "axis_out_of_range": (
        lambda: applied(quantize.weights(quantize.Spec(4, axis=2))),
        ValueError,
        "Dense_0/kernel: axis must name different axes of an array of rank 2, got 2",
    ),
    "nan_quantized": (
        lambda: applied(quantize.weights(), BROKEN),
        ValueError,
        "Dense_0/kernel: x must be finite, got 1 NaN and 0 infinite of 24 entries",
    ),
    "nan_binarized": (
        lambda: applied(quantize.binary(), BROKEN),
        ValueError,
        "Dense_0/kernel: w must be finite, got 1 NaN and 0 infinite of 24 entries",
    ),
    "integers_quantized": (
        lambda: quantize.fake_quantize(jnp.arange(3), quantize.Spec(4)),
        ValueError,
        "x must be a floating array, got int32",
    ),
    "codes_of_the_identity": (
        lambda: quantize.quantize(jnp.ones(3), quantize.Spec.identity()),
        ValueError,
        "bits must be 1 to 8 or 16 here, got None",
    ),
    "calibration_unknown": (
        lambda: quantize.weights(calibration="entropy"),
        ValueError,
        "calibration must be one of 'auto', 'absmax', 'percentile', 'mse', got 'entropy'",
    ),
    "rule_of_quantization": (
        lambda: applied(quantize.weights(rules=[("Dense_1/.*", None)])),
        RuleError,
        "rule 'Dense_1/.*' matches no parameter",
    ),
    "threshold_negative": (
        lambda: quantize.ternarize(jnp.ones((2, 2)), threshold=-1.0),
        ValueError,
        "threshold must be at least 0, got -1.0",
    ),
    # distill, transfer, chain
    **{
        f"temperature_{t}": (
            lambda t=t: distill.loss(jnp.ones((2, 3)), jnp.ones((2, 3)), t),
            ValueError,
            f"temperature must be a finite number above 0, got {t}",
        )
        for t in (0.0, -1.0, NAN)
    },
    "teacher_of_other_classes": (
        lambda: distill.loss(jnp.ones((2, 3)), jnp.ones((2, 4)), 1.0),
        ValueError,
        "student and teacher logits must be of one shape, got shapes (2, 3) and (2, 4)",
    ),
    "integer_logits": (
        lambda: distill.mse(jnp.ones((2, 3), jnp.int32), jnp.ones((2, 3))),
        ValueError,
        "student logits must be floating, got int32",
    ),
    "transfer_of_another_shape": (
        lambda: moved({"a": jnp.zeros((2, 4))}),
        transfer.TransferError,
        "a is 2x4, but a in the source is 2x3 (`reinitialize` leaves it fresh)",
    ),
    "transfer_of_nothing_there": (
        lambda: moved(TWO),
        transfer.TransferError,
        "b is to be copied from b, which the source does not have (the nearest are a)",
    ),
    "transfer_frozen_fresh": (
        lambda: moved(TWO, reinitialize=("b",), freeze=("b",)),
        transfer.TransferError,
        "b would be frozen at its fresh values (reinitialize 'b'; freeze 'b')",
    ),
    "transfer_all_fresh": (
        lambda: moved(TWO, reinitialize=(".*",)),
        transfer.TransferError,
        "no parameter would be copied: each is left fresh, or there is none",
    ),
    "state_of_another_chain": (
        lambda: chain(clip.clip()).apply((), PARAMS),
        ValueError,
        "chain of 1 transforms was given a state of 0 parts",
    ),
}


@pytest.fixture(autouse=True)
def no_compilation(monkeypatch):
    def get(self, name, *args, **kwargs):
        pytest.fail(f"{name!r} was compiled")

    monkeypatch.setattr("jopt.train.compilation.Compiler.get", get)


def files_of(directory):
    """Every file's content, but for the lock, which is empty and says nothing."""
    return {p: p.read_bytes() for p in directory.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_bad_config_is_refused_with_its_field(tmp_path, case):
    config, text = CONFIGS[case]
    with pytest.raises(ConfigError) as error:
        run(config, tmp_path / "run", quiet=True)
    assert str(error.value).startswith(text)
    assert str(error.value).endswith(f"got {error.value.value!r}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", RULES)
def test_a_rule_that_does_nothing_is_refused_with_its_pattern(tmp_path, case):
    config, text = RULES[case]
    with pytest.raises(RuleError) as error:
        run(config, tmp_path / "run", quiet=True)
    assert text in str(error.value)
    assert str(error.value).endswith("Dense_0/bias, Dense_0/kernel, Dense_1/bias, Dense_1/kernel")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", CALLS)
def test_a_bad_call_is_refused_with_its_reason(case):
    call, kind, text = CALLS[case]
    with pytest.raises(kind) as error:
        call()
    assert type(error.value) is kind and str(error.value).startswith(text)


def no_run(path):
    """No directory at all."""


def not_finished(path):
    Workdir(path).create(experiment())


@pytest.mark.parametrize("field", ["distill.teacher", "transfer.source"])
@pytest.mark.parametrize("make", [no_run, not_finished])
def test_a_directory_without_a_finished_run_teaches_nothing(tmp_path, field, make):
    make(tmp_path / "source")
    before, source = files_of(tmp_path), str(tmp_path / "source")
    kind = field.split(".")[0]
    own = distill.SoftTargets(teacher=source) if kind == "distill" else transfer.Transfer(source)
    with pytest.raises(ConfigError) as error:
        run(of_stage(**{kind: own}), tmp_path / "run", quiet=True)
    accepted = "the directory of a finished run, with result.json"
    assert str(error.value) == f"stages[0].{field} must be {accepted}, got {source!r}"
    assert files_of(tmp_path) == before


def test_a_source_of_another_shape_is_refused(tmp_path):
    small = models.Config(name="mlp", features=(5,), num_classes=4)
    stages = Stage("other"), Stage("here", model=small, transfer=transfer.Transfer("stage:other"))
    with pytest.raises(
        transfer.TransferError, match=r"Dense_0/kernel is 64x5, but Dense_0/kernel in the source is 64x16"
    ):
        run(of_stages(*stages), tmp_path / "run", quiet=True)
    assert not list(tmp_path.iterdir())


WHOLE = experiment(
    stages=[
        Stage(optimizer=optim.Config(), methods=(cluster.Tie(("Dense_.*/bias",)), prune.Gradual(), cluster.Share(), quantize.Weights(), clip.Range(), quantize.Activations(), distill.SoftTargets()), transfer=transfer.Transfer())
    ]
)


def replaced(config, path, value):
    """A copy of `config` with `value` at a dotted path such as `stages[0].steps`."""
    head, _, rest = path.partition(".")
    name, _, index = head.partition("[")
    new = value
    if rest:
        old = getattr(config, name)
        new = replaced(old[int(index[:-1])] if index else old, rest, value)
    return dataclasses.replace(config, **{name: [new] if index else new})


@pytest.mark.parametrize("path", [path for path, _ in leaves(WHOLE)])
def test_every_field_refuses_another_type(tmp_path, path):
    wrong = 1j
    with pytest.raises(ConfigError) as error:
        run(replaced(WHOLE, path, wrong), tmp_path / "run", quiet=True)
    assert str(error.value).startswith(f"{path} must be of type ") and str(error.value).endswith("got 1j")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "path",
    ["", "model", "data", "data.synthetic", "optimizer", "stages[0]", "stages[0].optimizer"]
    + [f"stages[0].{kind}" for kind in ("prune", "share", "tie", "quantize", "activations", "clip", "distill")],
)
def test_every_config_refuses_an_unknown_field(path):
    tree = to_dict(WHOLE)
    node = tree
    for part in filter(None, path.replace("[0]", ".0").split(".")):
        node = node[int(part) if part == "0" else part]
    node["lerning_rate"] = 0.1
    with pytest.raises(ConfigError) as error:
        from_dict(Experiment, tree)
    assert str(error.value).startswith(f"{path}.lerning_rate must be absent: ".removeprefix("."))
    assert str(error.value).endswith("got 0.1") and " has only " in str(error.value)


def test_data_that_cannot_be_prepared_are_an_error(tmp_path):
    (tmp_path / "sets" / ".digits.lock").mkdir(parents=True)
    config = of_data(name="digits", data_dir=str(tmp_path / "sets"))
    with pytest.raises(DataError, match=r"data\.data_dir: cannot write .*sets"):
        run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def other_run(path):
    Workdir(path).create(experiment(seed=5))


def not_json(path):
    path.mkdir()
    (path / "config.json").write_text("{")


def of_another_version(path):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**to_dict(experiment()), "sparsity": 0.5}))


def foreign(path):
    path.mkdir()
    (path / "thesis.tex").write_text("x")


def a_file(path):
    path.write_text("x")


def other_model(path):
    Workdir(path).create(experiment())
    with Checkpoints(Workdir(path).checkpoints) as checkpoints:
        checkpoints.save(12, {"w": np.zeros(3, np.float32)}, {"accuracy": 0.0})


def damaged_result(path):
    Workdir(path).create(experiment())
    (path / "result.json").write_text("{")


def damaged_manifest(path):
    Workdir(path).create(experiment())
    (path / "manifest.json").write_text("{")


def damaged_metrics(path):
    Workdir(path).create(experiment())
    (path / "metrics.jsonl").write_text("not JSON\n")


DIRECTORIES = {
    "another_run": (other_run, WorkdirError, "differs in seed (5 there, 0 now)"),
    "config_not_json": (not_json, WorkdirError, "is not a config of this version of jopt"),
    "config_of_another_version": (of_another_version, WorkdirError, "sparsity must be absent: Experiment has only"),
    "foreign_files": (foreign, WorkdirError, "holds thesis.tex but no config.json"),
    "file": (a_file, WorkdirError, "is not a directory"),
    "checkpoint_of_another_model": (other_model, CheckpointError, "is of another model or optimizer: w is not in"),
    "result_not_json": (damaged_result, WorkdirError, "result.json cannot be read"),
    "manifest_not_json": (damaged_manifest, WorkdirError, "manifest.json cannot be read"),
    "metrics_not_json": (damaged_metrics, WorkdirError, "metrics.jsonl is damaged: "),
}


def check_directory(tmp_path, make, kind, text):
    make(tmp_path / "run")
    before = files_of(tmp_path)
    with pytest.raises(kind) as error:
        run(experiment(), tmp_path / "run", quiet=True)
    assert text in str(error.value) and str(tmp_path / "run") in str(error.value)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("case", DIRECTORIES)
def test_a_directory_that_cannot_be_used_stays_as_it_is(tmp_path, case):
    check_directory(tmp_path, *DIRECTORIES[case])


def test_a_directory_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorkdirError, match=r"workdir .*run cannot be written"):
        run(experiment(), tmp_path / "file" / "run", quiet=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_directory_in_use_is_refused(tmp_path):
    files = Workdir(tmp_path / "run")
    files.create(experiment())
    before = files_of(tmp_path)
    with files.locked(), pytest.raises(WorkdirError, match="is in use by another process"):
        run(experiment(), tmp_path / "run", quiet=True)
    assert files_of(tmp_path) == before
