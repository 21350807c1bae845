"""Attention in float64 NumPy, with every table of pairs written out: the independent witness."""

import numpy as np


def dct_basis(size, start, stop):
    basis = np.zeros((size, stop - start))
    for column, u in enumerate(range(start, min(stop, size))):
        for i in range(size):
            scale = np.sqrt((1 if u == 0 else 2) / size)
            basis[i, column] = scale * np.cos(np.pi * u * (2 * i + 1) / (2 * size))
    return basis


def projector(height, width, band):
    """The N x N matrix of the low-pass: positions in rows-first order."""
    (u0, u1), (v0, v1) = band
    basis = np.kron(dct_basis(height, u0, u1), dct_basis(width, v0, v1))
    return basis @ basis.T


class IllConditioned(ValueError):
    """A zero vector or denominator: the result is rounding noise, whoever computes it."""


def unit(x):
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    if norm.min() < 1e-4 * norm.max():
        raise IllConditioned
    return x / norm


def normalised(table, smallest=1e-3):
    """Rows that sum to one; no sum may be below this share of its length."""
    total = table.sum(axis=1, keepdims=True)
    if np.abs(total).min() < smallest * len(table):
        raise IllConditioned
    return table / total


def softmax(q, k):
    scores = q @ k.T / np.sqrt(q.shape[1])
    return normalised(np.exp(scores - scores.max(axis=1, keepdims=True)), 0)


def relu_linear(q, k):
    table = np.maximum(q, 0) @ np.maximum(k, 0).T
    total = table.sum(axis=1, keepdims=True)
    size = np.abs(q).max(axis=1)
    # A query that is zero but for rounding attends to nothing, or to something.
    if np.any((total > 0) & (total < 1e-4 * total.max())) or size.min() < 1e-6 * size.max():
        raise IllConditioned
    return table / np.where(total > 0, total, 1)


# Each by the name that layers know it by: the `(N, N)` affinities of `q` and `k`, `(N, D)` each.
AFFINITIES = {
    "softmax": softmax,
    "dot_product": lambda q, k: q @ k.T / len(q),
    "linear_softmax": lambda q, k: normalised(1 + unit(q) @ unit(k).T),
    "linear": lambda q, k: normalised(1 + q @ k.T / np.sqrt(q.shape[1])),
    "relu_linear": relu_linear,
}
SPECTRAL = tuple(name for name in AFFINITIES if name != "softmax")


def affinity(name, q, k):
    """`(N, N)` affinities of one image."""
    return AFFINITIES[name](q, k)


def attend(name, q, k, v, heads):
    """The heads' outputs side by side: each is attention by itself, on its part of the columns."""
    parts = zip(*(np.split(z, heads, axis=1) for z in (q, k, v)), strict=True)
    return np.concatenate([affinity(name, q, k) @ v for q, k, v in parts], axis=1)


def self_attention(x, weights, name, band=None, recurrence=1, training=False, heads=1):
    """The whole block on a map (B, H, W, C), with the weights of a layer by their names."""
    batch, height, width, channels = x.shape
    low_pass = np.eye(height * width) if band is None else projector(height, width, band)
    w = {key: np.asarray(value, "float64") for key, value in weights.items()}
    x = np.asarray(x, "float64").reshape(batch, height * width, channels)
    for _ in range(recurrence):
        y = []
        for z in low_pass @ x:
            q = z @ w["query_kernel"] + w.get("query_bias", 0)
            k = z @ w["key_kernel"] + w.get("key_bias", 0)
            v = z @ w["value_kernel"] + w.get("value_bias", 0)
            y.append(attend(name, q, k, v, heads))
        y = np.stack(y)
        if "output_kernel" in w:
            y = y @ w["output_kernel"]
        if "gain" in w:
            update = w["gain"] * (y + w["output_bias"])
        elif "gamma" in w:
            if training:
                mean, variance = y.mean(axis=(0, 1)), y.var(axis=(0, 1))
            else:
                mean, variance = w["moving_mean"], w["moving_variance"]
            update = w["gamma"] * (y - mean) / np.sqrt(variance + 1e-5) + w["beta"]
        else:
            # The network around it has a residual of its own.
            update = y + w.get("output_bias", 0) - x
        x = x + update
    return x.reshape(batch, height, width, channels)
