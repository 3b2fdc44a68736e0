"""Bad input: each is a clear error before anything compiles and before anything is written."""

import dataclasses
import json
import math

import numpy as np
import pytest

from jopt import data, models, optim
from jopt.config import ConfigError, from_dict, leaves, to_dict
from jopt.data import DataError
from jopt.rules import RuleError
from jopt.train import Experiment, Stage, run
from jopt.train.checkpoint import CheckpointError, Checkpoints
from jopt.train.workdir import Workdir, WorkdirError

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
    "stage_steps_zero": (of_stages(Stage(steps=0)), "stages[0].steps must be a positive integer, got 0"),
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


WHOLE = experiment(stages=[Stage(optimizer=optim.Config())])


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
    "path", ["", "model", "data", "data.synthetic", "optimizer", "stages[0]", "stages[0].optimizer"]
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
