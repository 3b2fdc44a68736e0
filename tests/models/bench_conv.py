"""Times a training step of small convolutional networks, ours against flax.linen.Conv and PyTorch eager.

python tests/models/bench_conv.py [--torch]
"""

import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jopt.models import Conv
from jopt.models.layers import max_pool

STEPS = 20
CASES = [((8, 16), 16, 1), ((16, 32), 64, 1), ((8, 16), 16, 8)]


class Net(nn.Module):
    channels: tuple[int, ...]
    conv: Any
    pool: Any

    @nn.compact
    def __call__(self, x):
        for size in self.channels:
            x = self.pool(nn.relu(self.conv(size, (3, 3))(x)))
        x = x.reshape(x.shape[0], -1)
        return nn.Dense(10)(nn.relu(nn.Dense(64)(x)))


def flax_pool(x):
    return nn.max_pool(x, (2, 2), (2, 2))


def jax_run(channels, batch, trials, conv, pool):
    net = Net(channels, conv, pool)
    xs = jax.random.normal(jax.random.key(0), (STEPS, batch, 28, 28, 1))
    ys = jax.random.randint(jax.random.key(1), (STEPS, batch), 0, 10)

    def step(params, data):
        x, y = data

        def loss(params):
            log_p = jax.nn.log_softmax(net.apply(params, x))
            return -jnp.take_along_axis(log_p, y[:, None], 1).mean()

        value, grads = jax.value_and_grad(loss)(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), value

    params = jax.vmap(lambda key: net.init(key, xs[0]))(jax.random.split(jax.random.key(0), trials))
    run = jax.vmap(lambda p: jax.lax.scan(step, p, (xs, ys)))
    if trials == 1:
        params = jax.tree.map(lambda p: p[0], params)
        run = lambda p: jax.lax.scan(step, p, (xs, ys))  # noqa: E731
    run = jax.jit(run).lower(params).compile()
    return lambda: jax.block_until_ready(run(params))


def torch_run(channels, batch):
    import torch
    from torch import nn as tnn

    layers, last = [], 1
    for size in channels:
        layers += [tnn.Conv2d(last, size, 3, padding=1), tnn.ReLU(), tnn.MaxPool2d(2)]
        last = size
    net = tnn.Sequential(*layers, tnn.Flatten(), tnn.Linear(49 * last, 64), tnn.ReLU(), tnn.Linear(64, 10))
    optimizer, loss = torch.optim.SGD(net.parameters(), 0.01), tnn.CrossEntropyLoss()
    x, y = torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))

    def run():
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss(net(x), y).backward()
            optimizer.step()

    return run


def measure(runs, repeats=12):
    """The least wall and CPU milliseconds a step of each, the runs taking turns."""
    best = {name: (float("inf"), float("inf")) for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            now = (time.perf_counter() - wall) / STEPS * 1e3, (time.process_time() - cpu) / STEPS * 1e3
            best[name] = (min(best[name][0], now[0]), min(best[name][1], now[1]))
    return best


def main():
    print("channels batch trials | wall ms, CPU ms a step of all trials")
    for channels, batch, trials in CASES:
        runs = {
            "ours": jax_run(channels, batch, trials, Conv, max_pool),
            "nn.Conv": jax_run(channels, batch, trials, nn.Conv, flax_pool),
        }
        if "--torch" in sys.argv and trials == 1:
            runs["torch"] = torch_run(channels, batch)
        for name, (wall, cpu) in measure(runs).items():
            print(f"{channels} {batch} {trials} {name:8s} {wall:8.2f} {cpu:8.2f}", flush=True)


if __name__ == "__main__":
    main()
