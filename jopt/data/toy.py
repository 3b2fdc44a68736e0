"""Sets made on the spot: XOR, and seeded synthetic images for tests and benchmarks."""

import numpy as np

from jopt.data.config import Synthetic
from jopt.data.source import Source, Split


def xor() -> Source:
    """The four points of exclusive or; train, validation and test are the same four.

    Example:
      >>> xor().splits["train"].inputs.tolist(), xor().splits["train"].labels.tolist()
      ([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0])
    """
    points = Split(
        np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.uint8),
        np.array([0, 1, 1, 0], np.int32),
    )
    return Source({"train": points, "validation": points, "test": points}, num_classes=2, scale=1.0)


def synthetic(config: Synthetic) -> Source:
    """Images that scatter around one smooth template a class.

    Pixel = round(template + noise * normal), clipped to 0..255. Example i of a split has label `i % num_classes`.
    The draws come from `numpy.random.RandomState`, whose stream NumPy keeps as it is.

    Args:
      config: shapes, sizes, noise (raw units of 0..255) and seed.

    Returns:
      uint8 images [n, h, w, c] in three splits.

    Example:
      >>> source = synthetic(Synthetic(shape=(4, 4, 3), num_classes=2, train=6))
      >>> source.splits["train"].inputs.shape, source.splits["train"].labels.tolist()
      ((6, 4, 4, 3), [0, 1, 0, 1, 0, 1])
    """
    rng = np.random.RandomState(config.seed)
    height, width, channels = config.shape
    coarse = rng.uniform(0, 255, (config.num_classes, -(-height // 2), -(-width // 2), channels))
    templates = coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]

    def draw(n: int) -> Split:
        labels = np.arange(n, dtype=np.int32) % np.int32(config.num_classes)
        pixels = templates[labels] + config.noise * rng.standard_normal((n, *config.shape))
        return Split(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), labels)

    splits = {name: draw(getattr(config, name)) for name in ("train", "validation", "test")}
    return Source(splits, config.num_classes, scale=255.0)
