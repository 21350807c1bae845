"""The authors' attention modules: the library's layers with their weights, and their results."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_fsa.layers import FrequencySelfAttention

MODULES = sorted(
    path
    for path in (Path(__file__).parent / "golden").glob("*.npz")
    if re.match(r"(ccnet|mmseg)_(?!model)", path.name)
)


class Module(NamedTuple):
    """A layer with a module's weights, its input, and what the module made of it."""

    layer: keras.Layer
    x: np.ndarray
    y: np.ndarray
    training: bool
    statistics: list[tuple[Any, np.ndarray]]
    """Running statistics: the layer's weights, and the values that they should have in the end."""


def module(file: Path, cls: type = FrequencySelfAttention) -> Module:
    """The layer, of that class, to a file of golden results."""
    data = np.load(file)
    meta = json.loads(str(data["meta"]))
    parameters = {key[6:]: data[key] for key in data.files if key.startswith("param:")}
    start = {**parameters, **{k[7:]: data[k] for k in data.files if k.startswith("before:")}}
    a, b, c, d = meta["k"]
    band = ((a, b), (c, d))
    dot = "dot" in file.stem
    if dot and meta["family"] == "ccnet":
        band = band[::-1]
    arguments = {
        "affinity": "dot_product" if dot else "linear_softmax",
        "recurrence": meta["recurrence"],
        "frequencies" if cls is FrequencySelfAttention else "low_pass": band,
    }
    x, y = (data[key].transpose(0, 2, 3, 1) for key in "xy")
    if meta["family"] == "ccnet":
        layer = cls(**arguments)
        names = ("query_conv", "key_conv", "value_conv")
    else:
        width = x.shape[-1] // 2
        layer = cls(key_dim=width, value_dim=width, residual="batch_norm", **arguments)
        names = ("theta.conv", "phi.conv", "g.conv", "conv_out.conv")
    layer.build(x.shape)
    for name, kernel in zip(names, layer.weights, strict=False):
        value = start[f"{name}.weight"]
        kernel.assign(value.reshape(len(value), -1).T)
    statistics = []
    if meta["family"] == "ccnet":
        layer.gain.assign(start["gamma"].reshape(()))
        layer.output_bias.assign(start["out_bias"].reshape(-1))
    else:
        norm = layer.norm
        running = {"running_mean": norm.moving_mean, "running_var": norm.moving_variance}
        for name, weight in {"weight": norm.gamma, "bias": norm.beta, **running}.items():
            weight.assign(start[f"conv_out.bn.{name}"])
        statistics = [(running[name], parameters[f"conv_out.bn.{name}"]) for name in running]
    return Module(layer, x, y, bool(meta.get("training")), statistics)
