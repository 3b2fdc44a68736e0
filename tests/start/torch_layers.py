"""What PyTorch's layers compute, from their definitions, in NumPy: arrays are [batch, channels, height, width]."""

import numpy as np


def conv2d(x, weight, bias, groups=1):
    """A cross-correlation without padding."""
    out, _, kh, kw = weight.shape
    rows, columns = x.shape[2] - kh + 1, x.shape[3] - kw + 1
    y = np.zeros((len(x), out, rows, columns))
    for o in range(out):
        group = o // (out // groups)
        inputs = np.split(x, groups, axis=1)[group]
        for i in range(rows):
            for j in range(columns):
                y[:, o, i, j] = (inputs[:, :, i : i + kh, j : j + kw] * weight[o]).sum((1, 2, 3)) + bias[o]
    return y


def conv_transpose2d(x, weight, bias, stride):
    """Each input adds its multiple of the kernel [in, out, height, width] to the output."""
    inputs, out, kh, kw = weight.shape
    y = np.zeros((len(x), out, (x.shape[2] - 1) * stride + kh, (x.shape[3] - 1) * stride + kw))
    for c in range(inputs):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                y[:, :, i * stride : i * stride + kh, j * stride : j * stride + kw] += (
                    x[:, c, i, j, None, None, None] * weight[c]
                )
    return y + bias[:, None, None]


def batch_norm(x, weight, bias, running_mean, running_var):
    columns = (slice(None), None, None)
    scaled = (x - running_mean[columns]) / np.sqrt(running_var[columns] + 1e-5)
    return scaled * weight[columns] + bias[columns]


def layer_norm(x, weight, bias, eps):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * weight + bias


def linear(x, weight, bias):
    return x @ weight.T + bias


def attention(x, heads, state, prefix):
    """`nn.MultiheadAttention` on [batch, time, features], from its fused projection."""
    q, k, v = np.split(linear(x, state[f"{prefix}.in_proj_weight"], state[f"{prefix}.in_proj_bias"]), 3, axis=-1)

    def split(a):
        return a.reshape(*a.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    q, k, v = split(q), split(k), split(v)
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    joined = (weights @ v).transpose(0, 2, 1, 3).reshape(x.shape)
    return linear(joined, state[f"{prefix}.out_proj.weight"], state[f"{prefix}.out_proj.bias"])


def lstm(x, state, prefix, size):
    """The last output of a layer of `nn.LSTM`, batch first."""
    h = c = np.zeros((len(x), size))
    for t in range(x.shape[1]):
        gates = linear(x[:, t], state[f"{prefix}.weight_ih_l0"], state[f"{prefix}.bias_ih_l0"])
        gates = gates + linear(h, state[f"{prefix}.weight_hh_l0"], state[f"{prefix}.bias_hh_l0"])
        i, f, g, o = np.split(gates, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


def gru(x, state, prefix, size):
    """The last output of a layer of `nn.GRU`, batch first."""
    h = np.zeros((len(x), size))
    for t in range(x.shape[1]):
        a = linear(x[:, t], state[f"{prefix}.weight_ih_l0"], state[f"{prefix}.bias_ih_l0"])
        u = linear(h, state[f"{prefix}.weight_hh_l0"], state[f"{prefix}.bias_hh_l0"])
        (ar, az, an), (ur, uz, un) = np.split(a, 3, axis=-1), np.split(u, 3, axis=-1)
        r, z = sigmoid(ar + ur), sigmoid(az + uz)
        h = (1 - z) * np.tanh(an + r * un) + z * h
    return h


def sigmoid(x):
    return 1 / (1 + np.exp(-x))
