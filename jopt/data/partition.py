"""Stratified, reproducible selections: which examples go to validation, or into a small study."""

import hashlib
import itertools

import numpy as np


def stratified_order(inputs: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """A permutation, every prefix of which is stratified by label.

    Within a class, examples are ranked by the SHA-256 of `seed`, label and content, so the order follows from
    the data alone: not from the order in which a source yields them, nor from a random number generator. The
    classes are then interleaved: rank r of a class with m examples stands at `(r + 1/2) / m`. A prefix of k
    holds of every class its share of k, to within one example. Prefixes are nested.

    Args:
      inputs: array [n, ...].
      labels: integer array [n].
      seed: another seed gives another order.

    Returns:
      int64 [n], a permutation of 0..n-1.

    Example:
      >>> labels = np.array([0, 0, 0, 0, 1, 1])
      >>> order = stratified_order(np.arange(6, dtype=np.uint8)[:, None], labels)
      >>> sorted(order.tolist()), labels[order[:3]].tolist()
      ([0, 1, 2, 3, 4, 5], [0, 1, 0])
    """
    prefix = f"{seed}:".encode()
    hashes = [hashlib.sha256(prefix + x.tobytes()).digest() for x in np.ascontiguousarray(inputs)]
    # The index breaks ties between identical examples, between which there is nothing to choose.
    by_hash = sorted(range(len(hashes)), key=lambda i: (hashes[i], i))
    position = np.empty(len(labels))
    sorted_labels = np.asarray(labels)[by_hash]
    for label in np.unique(labels):
        members = np.asarray(by_hash)[sorted_labels == label]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((labels, position))


def carve(inputs: np.ndarray, labels: np.ndarray, sizes: list[int], seed: int = 0) -> list[np.ndarray]:
    """Index sets of the given sizes, disjoint and stratified, each in ascending order.

    Args:
      inputs: array [n, ...].
      labels: integer array [n].
      sizes: how many examples each part takes, adding up to at most n.
      seed: of `stratified_order`.

    Returns:
      One int64 array a size.

    Example:
      >>> parts = carve(np.arange(6, dtype=np.uint8)[:, None], np.array([0, 0, 0, 1, 1, 1]), [2, 4])
      >>> [len(p) for p in parts], sorted(np.concatenate(parts).tolist())
      ([2, 4], [0, 1, 2, 3, 4, 5])
    """
    order = stratified_order(inputs, labels, seed)
    edges = np.cumsum([0, *sizes])
    return [np.sort(order[a:b]) for a, b in itertools.pairwise(edges)]
