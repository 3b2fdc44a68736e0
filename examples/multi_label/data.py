"""A table made by scikit-learn: 20 counts of words, and which of five topics a document has."""

from sklearn.datasets import make_multilabel_classification


def topics(examples: int = 3000, test: int = 600, seed: int = 0):
    """Counts float [documents, 20] and topics, 0 or 1, [documents, 5]."""
    x, y = make_multilabel_classification(examples, n_features=20, n_classes=5, n_labels=2, random_state=seed)
    return {"train": (x[test:], y[test:]), "test": (x[:test], y[:test])}
