"""What a training step sees: which examples, as a pure function of the key and the step, and their augmentation."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Int32, Shaped

from jopt import keys
from jopt.data.images import Images
from jopt.hyper import check_number
from jopt.typing import Key


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Full batches in an epoch; the last `n % batch_size` examples of each epoch's permutation are dropped.

    Raises:
      ValueError: if `batch_size` is not in [1, n].

    Example:
      >>> steps_per_epoch(1257, 64)
      19
    """
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size must lie in [1, {n}], the number of training examples, got {batch_size}")
    return n // batch_size


def indices(
    key: Key, first_step: ArrayLike, num_steps: int, batch_size: int, n: int, *, aligned: bool = False
) -> Int32[Array, "steps batch"]:
    """The examples of steps `first_step, ..., first_step + num_steps - 1`.

    Step t lies in epoch `e = t // (n // batch_size)` and takes the t-th slice of `batch_size` from
    `permutation(jopt.keys.at(key, "order", e), n)`. So the order does not depend on how a run is cut into
    segments, and a resumed run needs nothing but the step number. Within an epoch no example comes twice;
    what an epoch drops (see `steps_per_epoch`) differs from epoch to epoch.

    Args:
      key: the run's root key; may be batched by `vmap`.
      first_step: int32 scalar >= 0, counted from the start of training; may be traced.
      num_steps: number of steps, static.
      batch_size: examples a step, static.
      n: number of training examples, static.
      aligned: promises that `first_step` begins an epoch, which saves computing the permutation of an epoch that
        the window cannot reach then.

    Returns:
      int32 [num_steps, batch_size], values in [0, n).

    Raises:
      ValueError: if `batch_size` is not in [1, n], `num_steps` < 1 or a concrete `first_step` < 0.

    Example:
      >>> key = keys.root(0)
      >>> rows = indices(key, 0, 4, 2, 5)
      >>> rows.shape, sorted(rows[:2].ravel().tolist())[0] >= 0
      ((4, 2), True)
      >>> bool((indices(key, 3, 1, 2, 5)[0] == rows[3]).all())
      True
    """
    per_epoch = steps_per_epoch(n, batch_size)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    check_number("first_step", first_step, lambda x: x >= 0, "a step, at least 0")
    # Everything below has static shapes, so that one program
    # serves every window of this length, wherever it begins.
    first_step = jnp.asarray(first_step, jnp.int32)
    first_epoch, offset = jnp.divmod(first_step, jnp.int32(per_epoch))
    # A window that starts on the last step of an epoch touches the most epochs.
    latest = 0 if aligned else per_epoch - 1
    num_epochs = (latest + num_steps - 1) // per_epoch + 1
    # Permutations of whole epochs, of which the window is cut
    # out: a part of a permutation costs as much as all of it.
    epochs = first_epoch + jnp.arange(num_epochs, dtype=jnp.int32)
    rows = jax.vmap(lambda number: epoch(key, number, per_epoch, batch_size, n))(epochs)
    rows = rows.reshape(num_epochs * per_epoch, batch_size)
    return jax.lax.dynamic_slice_in_dim(rows, offset, num_steps)


def epoch(
    key: Key, number: Int32[Array, ""], per_epoch: int, batch_size: int, n: int
) -> Int32[Array, "steps batch"]:
    """The examples of each step of an epoch.

    Args:
      key: the run's root key.
      number: of the epoch, from 0; may be traced.
      per_epoch: `steps_per_epoch(n, batch_size)`.
      batch_size: examples a step.
      n: number of training examples.
    """
    # A key of the epoch's own, so that no earlier epoch has to be drawn to resume at this one.
    order = jax.random.permutation(keys.at(key, "order", number), jnp.arange(n, dtype=jnp.int32))
    return order[: per_epoch * batch_size].reshape(per_epoch, batch_size)


def drawn(key: Key, name: str, examples: int, n: int) -> Int32[Array, " examples"]:
    """So many of n examples, without replacement, or all of them if there are fewer.

    Args:
      key: of the choice.
      name: what they are drawn for: another name gives other examples.
      examples: how many.
      n: number of training examples.

    Example:
      >>> sorted(drawn(keys.root(0), "calibration", 9, 4).tolist())
      [0, 1, 2, 3]
    """
    order = jax.random.permutation(keys.stream(key, name), jnp.arange(n, dtype=jnp.int32))
    return order[: min(examples, n)]


def augment(key: Key, images: Shaped[Array, "batch ..."], config: Images) -> Shaped[Array, "batch ..."]:
    """Translates and mirrors each image of a batch at random.

    With `n = config.shift` (or `config.crop_padding`, the same under its other name) each image is surrounded by n
    raw zeros on every side and cropped back at an offset uniform over the `(2n + 1)^2` positions. With
    `config.flip` it is then mirrored left to right with probability 1/2. Augment before `normalize`: the filling is
    a raw 0, black, not the mean. What is off adds nothing to the program, and consumes no randomness.

    Args:
      key: of this step; the result is a function of the key, whatever the batch holds.
      images: [n, h, w, c], any dtype.
      config: what to do.

    Returns:
      Images of the same shape and dtype; the very same array where all is off.

    Raises:
      ValueError: if something is on and `images` has another rank.

    Example:
      >>> x = jnp.ones((1, 3, 3, 1), jnp.uint8)
      >>> augment(keys.root(1), x, Images()) is x
      True
      >>> augment(keys.root(1), x, Images(shift=1))[0, :, :, 0].tolist()
      [[1, 1, 0], [1, 1, 0], [1, 1, 0]]
    """
    # At most one is not 0: `validate` refuses both.
    reach = config.shift or config.crop_padding
    if (reach or config.flip) and images.ndim != 4:
        raise ValueError(f"augmentation needs images [n, h, w, c], got shape {images.shape}")
    if reach:
        # Each kind of augmentation has a stream of its own, so
        # that turning one on leaves the others' draws as they are.
        corners = jax.random.randint(keys.stream(key, "shift"), (len(images), 2), 0, 2 * reach + 1, jnp.int32)
        images = _translate(images, corners, reach)
    if config.flip:
        mirrored = jax.random.bernoulli(keys.stream(key, "flip"), 0.5, (len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images


def _translate(
    images: Shaped[Array, "batch height width channels"], corners: Int32[Array, "batch 2"], reach: int
) -> Shaped[Array, "batch height width channels"]:
    """Crops zero-padded images at `corners` (int32 [n, 2], in 0..2 * reach).

    A mapped dynamic slice becomes one gather of whole windows: on a CPU, inside a scan, that is level with
    one-hot products and `take_along_axis` on 8x8 images, and half their time on CIFAR's (see docs/data.md).
    """
    _, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (reach, reach), (reach, reach), (0, 0)))

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        start = (corner[0], corner[1], jnp.int32(0))
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    return jax.vmap(crop)(padded, corners)
