"""scikit-learn's diabetes: how far the disease of 442 patients progressed within a year, from ten measurements."""

import numpy as np
from sklearn.datasets import load_diabetes


def diabetes(test: int = 89, seed: int = 0):
    """Measurements float [patients, 10] and progression [patients], in standard deviations of the training part."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    train, test = order[test:], order[:test]
    y = (y - y[train].mean()) / y[train].std()
    return {"train": (x[train], y[train]), "test": (x[test], y[test])}
