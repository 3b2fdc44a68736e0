"""The reference of the decoder: LZMA's bits for each byte of its test part."""

import numpy as np
import pytest

from benchmarks.lzma_reference import bits_per_byte


def test_noise_takes_its_own_bits_and_repetition_none():
    noise = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()
    assert bits_per_byte([noise]) == pytest.approx(8, rel=0.01)
    # Joined, the second copy is a reference to the first; apart, each is noise.
    assert bits_per_byte([noise + noise]) == pytest.approx(4, rel=0.03)
    assert bits_per_byte([noise, noise]) == pytest.approx(8, rel=0.01)
