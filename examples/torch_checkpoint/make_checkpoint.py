"""Writes net.safetensors as PyTorch would: the trained network's state dict, without needing PyTorch.

It stands for a file that somebody else made. Kernels are [out, in, height, width], and the head reads a map with
its channels first.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from model import Net
from safetensors.numpy import save_file

from jopt import data


def train(epochs: int = 8, batch: int = 64):
    """Flax variables of a network trained on the training part of the digits."""
    digits, net, optimizer = data.load(data.Digits()), Net(), optax.adam(3e-3)
    x = data.normalize(jnp.asarray(digits.train.inputs), digits.mean, digits.std)
    y = jnp.asarray(digits.train.targets, jnp.int32)
    variables = net.init(jax.random.key(0), x[:2])

    def loss(params, stats, rows):
        logits, new = net.apply(
            {"params": params, "batch_stats": stats}, x[rows], train=True, mutable=["batch_stats"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean(), new["batch_stats"]

    def step(carry, rows):
        params, stats, moments = carry
        grads, stats = jax.grad(loss, has_aux=True)(params, stats, rows)
        updates, moments = optimizer.update(grads, moments)
        return (optax.apply_updates(params, updates), stats, moments), None

    rng, per_epoch = np.random.default_rng(0), len(y) // batch * batch
    rows = np.concatenate([rng.permutation(len(y))[:per_epoch] for _ in range(epochs)]).reshape(-1, batch)
    start = (variables["params"], variables["batch_stats"], optimizer.init(variables["params"]))
    (params, stats, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, rows))(start)
    return jax.tree.map(np.asarray, (params, stats))


def state_dict(params, stats):
    """The names and layouts of PyTorch."""
    arrays = {}
    for i in (1, 2):
        norm, moved = params[f"bn{i}"], stats[f"bn{i}"]
        arrays[f"conv{i}.weight"] = params[f"conv{i}"]["kernel"].transpose(3, 2, 0, 1)
        arrays |= {f"bn{i}.weight": norm["scale"], f"bn{i}.bias": norm["bias"]}
        arrays |= {f"bn{i}.running_mean": moved["mean"], f"bn{i}.running_var": moved["var"]}
        arrays[f"bn{i}.num_batches_tracked"] = np.int64(0)
    kernel = params["fc"]["kernel"].reshape(2, 2, 32, 10)
    arrays |= {"fc.weight": kernel.transpose(3, 2, 0, 1).reshape(10, 128), "fc.bias": params["fc"]["bias"]}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


if __name__ == "__main__":
    save_file(state_dict(*train()), "net.safetensors")
