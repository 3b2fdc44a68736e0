"""A column of every table: the L2 norm of all parameters."""

import jax
import numpy as np

from jopt.measure import Column


def norm(measured):
    """Of the parameters as the model sees them."""
    leaves = jax.tree.leaves(measured.outcome.params)
    return float(np.sqrt(sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in leaves)))


WEIGHTS_L2 = Column("weights_l2", "L2 of the parameters", "", None, ".3f", norm, short="L2")
