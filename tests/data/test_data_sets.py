import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import config as base
from jopt import data
from jopt.data.cache import cached
from jopt.data.examples import Raw, stratified_order
from jopt.data.statistics import statistics

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def digits(data_dir):
    return data.load(data.Digits(data_dir=str(data_dir)))


def test_digits_have_these_splits(digits):
    counts = {s: np.bincount(getattr(digits, s).targets).tolist() for s in SPLITS}
    assert counts == {
        "train": [124, 127, 124, 128, 127, 127, 127, 125, 122, 126],
        "validation": [18, 18, 18, 18, 18, 19, 18, 18, 17, 18],
        "test": [36, 37, 35, 37, 36, 36, 36, 36, 35, 36],
    }
    assert [sum(c) for c in counts.values()] == [1257, 180, 360]


def test_digits_are_scikit_learns_pixel_for_pixel(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    row_of = {image.astype(np.uint8).tobytes(): row for row, image in enumerate(bunch.images)}
    assert len(row_of) == 1797  # no two are alike, so a row is identified by its pixels
    rows = []
    for split in SPLITS:
        inputs, labels = getattr(digits, split)[:2]
        assert inputs.dtype == np.uint8 and inputs.shape[1:] == (8, 8, 1) and labels.dtype == np.int32
        split_rows = [row_of[image.tobytes()] for image in inputs]
        np.testing.assert_array_equal(labels, bunch.target[split_rows])
        assert split_rows == sorted(split_rows)
        rows += split_rows
    assert sorted(rows) == list(range(1797))  # the splits cover the set, and none shares an image with another


def test_digits_never_change(digits, digits_fingerprint):
    assert digits.fingerprint == digits_fingerprint


def test_statistics_are_of_the_training_part_alone(digits):
    pixels = np.asarray(digits.train.inputs, np.float64)
    np.testing.assert_allclose(digits.mean, [pixels.mean()], rtol=1e-7)
    np.testing.assert_allclose(digits.std, [pixels.std()], rtol=1e-7)
    assert digits.mean.dtype == digits.std.dtype == np.float32
    everything = np.concatenate([np.asarray(getattr(digits, s).inputs, np.float64) for s in SPLITS])
    assert abs(everything.mean() - digits.mean[0]) > 1e-4


def test_a_constant_channel_has_standard_deviation_1():
    inputs = np.stack([np.full((4, 2, 2), 7), np.arange(16).reshape(4, 2, 2)], axis=-1).astype(np.uint8)
    mean, std = statistics(inputs, 2)
    np.testing.assert_allclose(mean, [7, 7.5])
    np.testing.assert_allclose(std, [1, np.sqrt((16**2 - 1) / 12)], rtol=1e-6)


def test_normalized_training_pixels_have_mean_0_and_deviation_1(digits):
    arrays = data.device_arrays(digits)
    x = jax.jit(data.normalize)(arrays.inputs, arrays.mean, arrays.std)
    assert x.dtype == jnp.float32 and x.shape == (1257, 8, 8, 1)
    assert abs(float(x.mean())) < 1e-5 and abs(float(x.std()) - 1) < 1e-5


def test_without_normalization_inputs_land_in_0_to_1(data_dir):
    dataset = data.load(data.Digits(data_dir=str(data_dir), normalize=False))
    arrays = data.device_arrays(dataset)
    x = data.normalize(arrays.inputs, arrays.mean, arrays.std)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)


def test_sequences_are_rows_as_time_steps(data_dir, digits):
    rows = data.load(data.Digits(data_dir=str(data_dir), layout="sequence"))
    assert rows.train.inputs.shape == (1257, 8, 8) and rows.mean.shape == (8,)
    np.testing.assert_array_equal(rows.train.inputs, digits.train.inputs[..., 0])
    a, b = data.device_arrays(rows, "test"), data.device_arrays(digits, "test")
    np.testing.assert_array_equal(
        data.normalize(a.inputs, a.mean, a.std), data.normalize(b.inputs, b.mean, b.std)[..., 0]
    )


def test_colour_sequences_keep_each_channelsstatistics():
    config = data.Synthetic(shape=(4, 5, 3))
    images = data.load(config)
    config.layout = "sequence"
    rows = data.load(config)
    assert rows.train.inputs.shape == (512, 4, 15)
    np.testing.assert_array_equal(rows.mean.reshape(5, 3), np.broadcast_to(images.mean, (5, 3)))
    assert images.mean.shape == (3,)


def test_small_studies_are_stratified_and_nested(data_dir, digits):
    def take(n):
        return data.load(data.Digits(data_dir=str(data_dir), train_examples=n))

    small, large = take(100), take(400)
    assert np.bincount(small.train.targets).tolist() == [10] * 10
    images = {image.tobytes() for image in large.train.inputs}
    assert len(images) == 400
    assert all(image.tobytes() in images for image in small.train.inputs)
    np.testing.assert_array_equal(small.test.inputs, digits.test.inputs)
    assert len({d.fingerprint for d in (small, large, digits)}) == 3
    with pytest.raises(base.ConfigError) as caught:
        take(1258)
    assert (caught.value.field, caught.value.value) == ("data.train_examples", 1258)
    assert "1257" in caught.value.accepted


def test_xor_is_the_four_points():
    dataset = data.load(data.Xor())
    for split in SPLITS:
        inputs, labels = getattr(dataset, split)[:2]
        assert {tuple(x): int(y) for x, y in zip(inputs.tolist(), labels, strict=True)} == {
            (0, 0): 0,
            (0, 1): 1,
            (1, 0): 1,
            (1, 1): 0,
        }
    arrays = data.device_arrays(dataset)
    assert data.normalize(arrays.inputs, arrays.mean, arrays.std).tolist() == [[-1, -1], [-1, 1], [1, -1], [1, 1]]
    assert data.load(data.Xor(layout="sequence")).train.inputs.shape == (4, 2, 1)


def test_synthetic_never_changes_and_follows_its_config():
    dataset = data.load(data.Synthetic())
    assert dataset.fingerprint == "0c8aa9592dd08bb8f02ed4572586b00cf7d0490d41df540bfa3486b11c37a3d4"
    small = data.Synthetic(shape=(3, 5, 2), num_classes=4, train=12, validation=8, test=4, seed=1)
    dataset = data.load(small)
    assert [getattr(dataset, s).inputs.shape for s in SPLITS] == [(n, 3, 5, 2) for n in (12, 8, 4)]
    assert np.bincount(dataset.train.targets).tolist() == [3] * 4


def test_synthetic_can_be_learned():
    # The nearest training template classifies the test part: chance is 0.1.
    dataset = data.load(data.Synthetic())
    x, y = (np.asarray(a, np.float64) for a in dataset.train[:2])
    means = np.stack([x[y == k].mean(0) for k in range(10)])
    distances = ((dataset.test.inputs[:, None] - means) ** 2).sum((2, 3, 4))
    assert (distances.argmin(1) == dataset.test.targets).mean() > 0.95


@pytest.mark.parametrize("split", SPLITS)
def test_device_arrays_are_a_pytree_on_the_device(digits, split):
    device = jax.devices()[1]
    arrays = data.device_arrays(digits, split, device)
    assert [x.devices() for x in jax.tree.leaves(arrays)] == [{device}] * 4
    assert arrays.inputs.dtype == jnp.uint8 and arrays.targets.dtype == jnp.int32
    np.testing.assert_array_equal(arrays.inputs, getattr(digits, split).inputs)


def test_an_unknown_split_is_refused(digits):
    with pytest.raises(ValueError, match=r"split.*'train', 'validation'.*'dev'"):
        data.device_arrays(digits, "dev")


def test_every_prefix_is_stratified_to_within_one_example():
    rng = np.random.RandomState(0)
    labels = rng.choice(4, 200, p=[0.5, 0.3, 0.15, 0.05])
    order = stratified_order(rng.randint(0, 256, (200, 3)).astype(np.uint8), labels)
    totals = np.bincount(labels)
    for k in range(201):
        taken = np.bincount(labels[order[:k]], minlength=4)
        assert np.abs(taken - totals * k / 200).max() <= 1


def test_the_selection_follows_from_content_not_from_the_order_of_reading():
    rng = np.random.RandomState(0)
    inputs, labels = rng.randint(0, 256, (50, 6)).astype(np.uint8), rng.choice(3, 50)
    shuffle = rng.permutation(50)
    a = inputs[stratified_order(inputs, labels)[:20]]
    b = inputs[shuffle][stratified_order(inputs[shuffle], labels[shuffle])[:20]]
    np.testing.assert_array_equal(a, b)


def test_another_task_on_the_same_images(digits, data_dir):
    parity = data.load(data.Digits(data_dir=str(data_dir), relabel=(0, 1) * 5))
    assert parity.num_classes == 2 and parity.fingerprint != digits.fingerprint
    for part in ("train", "validation", "test"):
        relabelled, original = getattr(parity, part), getattr(digits, part)
        assert np.array_equal(relabelled.inputs, original.inputs)
        assert np.array_equal(relabelled.targets, original.targets % 2) and relabelled.targets.dtype == np.int32


@pytest.mark.parametrize("relabel", [(0, 1), (0, 1) * 6, (0, 2) * 5, (-1, 0) * 5])
def test_a_task_must_name_every_class(relabel, data_dir):
    with pytest.raises(base.ConfigError, match=r"data\.relabel"):
        data.load(data.Digits(data_dir=str(data_dir), relabel=relabel))


@pytest.mark.parametrize("wrong", [-1, 2, 300])
@pytest.mark.parametrize(("split", "relabel"), [("train", ()), ("validation", (1, 0)), ("test", ())])
def test_a_label_that_is_no_class_is_refused(tmp_path, wrong, split, relabel):
    def part(name):
        labels = np.array([0, 1, 0, wrong if name == split else 1], np.int32)
        return data.Split(np.zeros((4, 2, 2, 1), np.uint8), labels)

    source = Raw({name: part(name) for name in SPLITS}, num_classes=2, scale=255.0)
    cached(tmp_path, "digits", lambda: source)
    message = rf"'digits'.* labels.*'{split}'.*\[0, 2\).* {wrong} .*index 3 .*1 of 4"
    # A relabelling would give the last class to -1.
    with pytest.raises(data.DataError, match=message) as caught:
        data.load(data.Digits(data_dir=str(tmp_path), relabel=relabel))
    assert caught.value.value == wrong and split in caught.value.field and caught.value.accepted
    assert ("TFDS" in str(caught.value)) == (wrong == -1)


def test_labels_that_are_no_integers_are_refused():
    with pytest.raises(ValueError, match=r"labels.*\[0, 3\).*float32"):
        data.check_labels(np.zeros(2, np.float32), 3)
    data.check_labels(np.zeros(0, np.int32), 3)
