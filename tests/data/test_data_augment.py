import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jopt import data, keys

pytestmark = pytest.mark.unoptimized

KEY = keys.root(3)


def batch(n=64, shape=(8, 8, 1), dtype=np.uint8):
    return jnp.asarray(np.random.RandomState(0).randint(1, 256, (n, *shape)).astype(dtype))


def by_loops(key, images, reach, flip):
    """The definition, pixel by pixel."""
    images = np.asarray(images)
    out = np.zeros_like(images)
    n, height, width, _ = images.shape
    corners = np.full((n, 2), reach)
    if reach:
        corners = np.asarray(jax.random.randint(keys.stream(key, "shift"), (n, 2), 0, 2 * reach + 1, jnp.int32))
    for i in range(n):
        for y in range(height):
            for x in range(width):
                a, b = y + corners[i, 0] - reach, x + corners[i, 1] - reach
                if 0 <= a < height and 0 <= b < width:
                    out[i, y, x] = images[i, a, b]
    if flip:
        mirrored = np.asarray(jax.random.bernoulli(keys.stream(key, "flip"), 0.5, (n, 1, 1, 1)))
        out = np.where(mirrored, out[:, :, ::-1], out)
    return out


@pytest.mark.parametrize(
    ("config", "reach", "flip", "shape"),
    [
        (data.Digits(shift=1), 1, False, (8, 8, 1)),
        (data.Digits(shift=3, flip=True), 3, True, (5, 7, 3)),
        (data.Digits(crop_padding=2), 2, False, (5, 7, 3)),
        (data.Digits(flip=True), 0, True, (8, 8, 1)),
        (data.Digits(shift=9), 9, False, (8, 8, 1)),  # further than the image is wide: some come out black
    ],
)
def test_it_is_what_the_loops_say(config, reach, flip, shape):
    images = batch(16, shape)
    got = jax.jit(lambda k, x: data.augment(k, x, config))(KEY, images)
    assert got.dtype == images.dtype and got.shape == images.shape
    np.testing.assert_array_equal(got, by_loops(KEY, images, reach, flip))


def test_shift_and_crop_padding_are_one_operation():
    images = batch()
    a, b = (data.augment(KEY, images, c) for c in (data.Digits(shift=2), data.Digits(crop_padding=2)))
    np.testing.assert_array_equal(a, b)


def test_every_offset_comes_and_each_about_as_often():
    # One bright pixel shows where it went: 9 cells, 9000 images, binomial sd sqrt(9000 * 1/9 * 8/9) = 29.8.
    images = jnp.zeros((9000, 3, 3, 1), jnp.uint8).at[:, 1, 1].set(1)
    counts = np.asarray(data.augment(KEY, images, data.Digits(shift=1)).astype(jnp.int32).sum(0)).ravel()
    assert counts.sum() == 9000
    assert np.abs(counts - 1000).max() < 5 * 29.8


def test_off_leaves_no_trace_in_the_program():
    images = batch()
    jaxpr = jax.make_jaxpr(lambda k, x: data.augment(k, x, data.Digits()))(KEY, images)
    assert jaxpr.jaxpr.eqns == []


def test_float_images_keep_their_dtype():
    images = batch(dtype=np.float32)
    assert data.augment(KEY, images, data.Digits(shift=1, flip=True)).dtype == jnp.float32


def test_another_key_moves_otherwise_and_the_same_key_the_same():
    images, config = batch(), data.Digits(shift=2)
    one, again = (data.augment(KEY, images, config) for _ in range(2))
    other = data.augment(keys.root(4), images, config)
    np.testing.assert_array_equal(one, again)
    assert not (one == other).all()


def test_it_maps_over_trials():
    many = jax.vmap(keys.root)(jnp.arange(2, dtype=jnp.uint32))
    out = jax.vmap(lambda k: data.augment(k, batch(), data.Digits(shift=1, flip=True)))(many)
    np.testing.assert_array_equal(out[1], data.augment(keys.root(1), batch(), data.Digits(shift=1, flip=True)))


def test_sequences_are_refused():
    with pytest.raises(ValueError, match=r"\[n, h, w, c\].*\(4, 8, 8\)"):
        data.augment(KEY, jnp.zeros((4, 8, 8), jnp.uint8), data.Digits(shift=1))
