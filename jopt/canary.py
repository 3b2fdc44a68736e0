"""A small fixed program whose bits tell whether two machines may share a grid, and what those bits depend on."""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jopt.train import manifest
from jopt.train.surroundings import Change, Fact, Surroundings, surroundings

_STEPS = 8


def digest() -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the program's results on this machine's first device.

    The program multiplies matrices, convolves, takes exponentials, logarithms and hyperbolic tangents, draws random
    numbers and trains a small network with Adam: what the library's programs consist of. A processor without fused
    multiply-add, another compiler or another kind of device gives another digest. Equal digests are strong evidence
    for equal bits and no proof: another program may use an instruction that this one does not.

    Example:
      >>> digest() == digest(), len(digest())
      (True, 16)
    """
    key = jax.random.key(20, impl="threefry2x32")
    # The program has a constant of this machine, so that no other machine's executable is taken from a shared
    # compilation cache. It is a result of its own and touches no number of the others.
    machine = f"{socket.gethostname()} {manifest.processor()}"
    mark = int.from_bytes(hashlib.sha256(machine.encode()).digest()[:3])
    results, _ = jax.jit(lambda key: (_results(key), jnp.full((), mark, jnp.int32)))(key)
    hashed = hashlib.sha256()
    for name, value in sorted(jax.device_get(results).items()):
        hashed.update(f"{name} {value.shape} {value.dtype}".encode() + np.ascontiguousarray(value).tobytes())
    return hashed.hexdigest()[:16]


def _results(key: jax.Array) -> dict[str, jax.Array]:
    keys = jax.random.split(key, 4)
    x = jax.random.normal(keys[0], (48, 96), jnp.float32)
    w = jax.random.normal(keys[1], (96, 40), jnp.float32)
    images = jax.random.uniform(keys[2], (4, 12, 12, 3), jnp.float32)
    filters = jax.random.normal(keys[3], (3, 3, 3, 8), jnp.float32)
    convolved = jax.lax.conv_general_dilated(
        images, filters, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    products = x @ w
    # Sizes of no power of two: the ends of vectors are summed in another way than their bodies.
    return {
        "bits": jax.random.bits(keys[0], (61,)),
        "products": products,
        "sums": jnp.sum(convolved, (0, 1, 2)),
        "softmax": jax.nn.softmax(products),
        "logarithms": jnp.log(images + 1e-3),
        "tangents": jnp.tanh(products),
        "moments": jnp.stack([jnp.mean(x), jnp.var(x), jnp.linalg.norm(w)]),
        "trained": _trained(x, w),
    }


def _trained(x: jax.Array, w: jax.Array) -> jax.Array:
    """Weights after some steps of Adam (Kingma and Ba, 2015, algorithm 1)."""
    targets = jnp.sin(x[:, :40])

    def loss(w: jax.Array) -> jax.Array:
        return jnp.mean((jnp.tanh(x @ w) - targets) ** 2)

    # Written out, as the canary must run under every rule of type promotion.
    def step(i: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        w, m, v = carry
        gradient, count = jax.grad(loss)(w), (i + 1).astype(jnp.float32)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        corrected = m / (1 - 0.9**count), v / (1 - 0.999**count)
        return w - 0.01 * corrected[0] / (jnp.sqrt(corrected[1]) + 1e-8), m, v

    return jax.lax.fori_loop(0, _STEPS, step, (w, jnp.zeros_like(w), jnp.zeros_like(w)))[0]


def facts() -> Surroundings:
    """What the bits of this process depend on, data excluded: versions, options, the processor, and the canary."""
    recorded = {
        "xla_flags": manifest.xla_flags(),
        "jax_config": manifest.jax_options(),
        "compiler_options": manifest.current_options(),
        "packages": {name: manifest.version(name) for name in manifest.PACKAGES},
        "jopt_code": manifest.code(),
        "devices": {"platform": jax.default_backend(), "kind": jax.devices()[0].device_kind},
    }
    return surroundings(recorded) | _processor() | {"canary": digest()}


def _processor() -> dict[str, Fact]:
    """The features of the processor that change bits, as far as the system tells them."""
    features: dict[str, Fact] = {"machine": platform.machine()}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return features
    # AVX2 and AVX512 gave the same bits where both were tried; without fused multiply-add they were others.
    for line in lines:
        if line.startswith("flags"):
            return features | {"fused multiply-add": "fma" in line.split()}
    return features


def described(changes: Sequence[Change]) -> str:
    """Differences in words: the name, the value there, the value here.

    Example:
      >>> described([Change("jax", "0.10.2", "0.10.1")])
      "jax is '0.10.1' there and '0.10.2' here"
    """
    return "; ".join(f"{c.name} is {_short(c.now)} there and {_short(c.then)} here" for c in changes)


def _short(value: Fact) -> str:
    text = repr(value)
    # A digest of the code has 64 digits, of which the first tell enough.
    return text if len(text) <= 60 else f"{text[:14]}...'"
