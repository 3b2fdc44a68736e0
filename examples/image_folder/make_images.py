"""Writes scikit-learn's digits as files: images/train/CLASS/*.png and images/test/CLASS/*.png. Run it once."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

digits = load_digits()
for i, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    part = "test" if i % 5 == 0 else "train"
    path = Path("images", part, str(label), f"{i:04}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15).astype(np.uint8)).save(path)
