"""Float64 NumPy references of every optimizer, written from the formulas and not from Optax's code."""

import numpy as np


def sgd(learning_rate):
    return lambda w, g, s, t: (w - learning_rate * g, s)


def momentum(learning_rate, momentum):
    def step(w, g, s, t):
        v = momentum * s.get("v", 0.0) + g
        return w - learning_rate * v, {"v": v}

    return step


def nesterov(learning_rate, momentum):
    def step(w, g, s, t):
        v = momentum * s.get("v", 0.0) + g
        return w - learning_rate * (g + momentum * v), {"v": v}

    return step


def adagrad(learning_rate, eps):
    def step(w, g, s, t):
        total = s.get("total", 0.1) + g**2
        return w - learning_rate * g / np.sqrt(total + eps), {"total": total}

    return step


def adagrad_paper(learning_rate, eps):
    def step(w, g, s, t):
        total = s.get("total", 0.0) + g**2
        return w - learning_rate * g / (np.sqrt(total) + eps), {"total": total}

    return step


def rmsprop(learning_rate, decay, eps):
    def step(w, g, s, t):
        v = decay * s.get("v", 0.0) + (1 - decay) * g**2
        return w - learning_rate * g / np.sqrt(v + eps), {"v": v}

    return step


def rmsprop_paper(learning_rate, decay, eps):
    def step(w, g, s, t):
        v = decay * s.get("v", 0.0) + (1 - decay) * g**2
        return w - learning_rate * g / (np.sqrt(v) + eps), {"v": v}

    return step


def adam(learning_rate, b1, b2, eps, weight_decay=0.0):
    def step(w, g, s, t):
        m = b1 * s.get("m", 0.0) + (1 - b1) * g
        v = b2 * s.get("v", 0.0) + (1 - b2) * g**2
        u = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
        return w - learning_rate * (u + weight_decay * w), {"m": m, "v": v}

    return step


def adam_paper(learning_rate, b1, b2, eps):
    def step(w, g, s, t):
        m = b1 * s.get("m", 0.0) + (1 - b1) * g
        v = b2 * s.get("v", 0.0) + (1 - b2) * g**2
        return w - learning_rate * m / (np.sqrt(v) + eps), {"m": m, "v": v}

    return step


def lion(learning_rate, b1, b2, weight_decay):
    def step(w, g, s, t):
        m = s.get("m", np.zeros_like(g))
        u = np.sign(b1 * m + (1 - b1) * g)
        return w - learning_rate * (u + weight_decay * w), {"m": b2 * m + (1 - b2) * g}

    return step


def muon(learning_rate, momentum, b1, b2, eps):
    def orthogonal(x):
        x = x / (np.sqrt((x**2).sum()) + eps)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x - 4.7750 * a @ x + 2.0315 * a @ a @ x
        return x

    def step(w, g, s, t):
        b = momentum if w.ndim == 2 else b1
        m = b * s.get("m", 0.0) + (1 - b) * g
        ahead = b * m / (1 - b ** (t + 1)) + (1 - b) * g / (1 - b**t)
        if w.ndim == 2:
            rows, columns = w.shape
            return w - learning_rate * np.sqrt(max(1, columns / rows)) * orthogonal(ahead), {"m": m}
        v = b2 * s.get("v", 0.0) + (1 - b2) * g**2
        return w - learning_rate * ahead / (np.sqrt(v / (1 - b2**t)) + eps), {"m": m, "v": v}

    return step


def run(step, params, grads):
    """Every parameter's float64 value after the last of the gradients: dicts of arrays, and of stacked arrays."""
    ends = {}
    for key, w in params.items():
        w, state = np.asarray(w, np.float64), {}
        for t, g in enumerate(np.asarray(grads[key], np.float64), start=1):
            w, state = step(w, g, state, t)
        ends[key] = w
    return ends
