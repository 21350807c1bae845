"""Weights of PyTorch networks: the authors' own, and those that their backbones start from."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_fsa.arguments import boolean, optional_import
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.types import Path

PYTORCH_FILES = (".pth", ".pt", ".safetensors")

# Where each layer of ours is in a state dict of theirs.
_HEADS = {
    "ccnet": {
        "head": {
            "before_conv": "head.conva.0",
            "before_bn": "head.conva.1",
            "attention": "head.fsa",
            "after_conv": "head.convb.0",
            "after_bn": "head.convb.1",
            "fuse_conv": "head.bottleneck.0",
            "fuse_bn": "head.bottleneck.1",
            "logits": "head.bottleneck.4",
        },
        "auxiliary_head": {
            "auxiliary_conv": "dsn.0",
            "auxiliary_bn": "dsn.1",
            "logits": "dsn.4",
        },
    },
    "mmseg": {
        "head": {
            "before_conv": "decode_head.convs.0.conv",
            "before_bn": "decode_head.convs.0.bn",
            "attention": "decode_head.nl_block",
            "after_conv": "decode_head.convs.1.conv",
            "after_bn": "decode_head.convs.1.bn",
            "fuse_conv": "decode_head.conv_cat.conv",
            "fuse_bn": "decode_head.conv_cat.bn",
            "logits": "decode_head.conv_seg",
        },
        "auxiliary_head": {
            "auxiliary_conv": "auxiliary_head.convs.0.conv",
            "auxiliary_bn": "auxiliary_head.convs.0.bn",
            "logits": "auxiliary_head.conv_seg",
        },
    },
}
_WEIGHTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_ATTENTION = {
    "ccnet": {
        "query_kernel": "query_conv.weight",
        "key_kernel": "key_conv.weight",
        "value_kernel": "value_conv.weight",
        "query_bias": "query_conv.bias",
        "key_bias": "key_conv.bias",
        "value_bias": "value_conv.bias",
        "output_bias": "out_bias",
        "gain": "gamma",
    },
    "mmseg": {
        "query_kernel": "theta.conv.weight",
        "key_kernel": "phi.conv.weight",
        "value_kernel": "g.conv.weight",
        "query_bias": "theta.conv.bias",
        "key_bias": "phi.conv.bias",
        "value_bias": "g.conv.bias",
        "output_kernel": "conv_out.conv.weight",
        "gamma": "conv_out.bn.weight",
        "beta": "conv_out.bn.bias",
        "moving_mean": "conv_out.bn.running_mean",
        "moving_variance": "conv_out.bn.running_var",
    },
}
# What torch says where a pickle names anything but tensors and plain containers.
_CODE = re.compile(r"(?i)unsupported global:? \S+ \S+|unrecognized function \S+|allowlisted.*")
_STEM = re.compile(r"conv(\d)_(conv|bn)")
_BLOCK = re.compile(r"stack(\d)_block(\d+)_(\d)_(conv|bn)")
_LITE = re.compile(r"(?:stem|block(\d+)_(expand|depthwise|project))_(conv|bn)")
_LITE_NORMS = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
# Of a classifier, which a backbone lacks: ResNet's and EfficientNet's.
_TOP = ("fc.", "_conv_head.", "_bn1.", "_fc.")


def load_pytorch_weights(
    model: keras.Model, weights: Path | Mapping[str, Any], strict: bool = True
) -> None:
    """Load the authors' weights, or those that their training starts from.

    The checkpoint may be a whole network of either family, ccnet or mmseg, for an `FsaNet` of that
    preset; or a network trained on ImageNet, for a backbone of its architecture:

    | model            | checkpoint                                                             |
    | ---------------- | ---------------------------------------------------------------------- |
    | `model`          | ccnet: `conv1.weight`, `layer1.0.conv1.weight`, `head.fsa.gamma`, ...  |
    | `model`          | mmseg: `backbone.stem.0.weight`, `decode_head.conv_seg.weight`, ...    |
    | `model.backbone` | CSAIL's ResNet101: `conv1.weight`, ..., `layer1.0.conv1.weight`, ...   |
    | `model.backbone` | mmseg's resnet101_v1c: `stem.0.weight`, `layer1.0.conv1.weight`, ...   |
    | `model.backbone` | EfficientNet-Lite: `_conv_stem.weight`, `_blocks.0._bn1.weight`, ...   |

    A prefix `module.` of all names and a wrapper `{"state_dict": ...}` are removed. All names,
    shapes and values are checked before the first is assigned. Entries named `num_batches_tracked`
    are not needed, nor is the classifier of an ImageNet network. No code in a file is ever run.

    Args:
        model: an `FsaNet` whose backbone is a `deep_stem_resnet`, as `FsaNet.from_preset` makes
            it; that backbone; or the backbone of an `FsaNet(..., "efficientnet_lite0")`.
        weights: path of a `.pth`, `.pt` (both read by torch) or `.safetensors` file, or a dict of
            arrays or torch tensors by their names.
        strict: if True, everything must fit, or nothing is loaded. If False, whatever fits by name
            and shape is loaded, and a warning lists the rest: for example all but the last layers,
            if the classes differ.

    Raises:
        ValueError: listing every entry that is missing, not used, or of another shape; naming one
            with NaN, infinity, a value beyond float32 or a negative variance; for a model of
            another kind; for a file that is damaged (checksums are verified) or contains code.
        FileNotFoundError: if there is no such file.
        ImportError: if torch or safetensors is missing, with the pip command.

    Example:
        model = keras_fsa.FsaNet.from_preset("ccnet_dot_r2_cityscapes")
        keras_fsa.load_pytorch_weights(model, "CS_scenes_60000.pth")
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            "`model` must be an FsaNet or a backbone. Received: "
            f"model={model!r}. Build it with keras_fsa.FsaNet.from_preset(...)."
        )
    boolean("strict", strict)
    arrays = read_arrays(weights)
    # The names tell which family it is.
    variables = max(
        (_variables(model, family) for family in _HEADS),
        key=lambda names: len(names.keys() & arrays.keys()),
    )
    missing = [name for name in variables if name not in arrays]
    unused = [name for name in arrays if name not in variables and not _is_ignored(name, model)]
    found = {name: arrays[name] for name in variables if name in arrays}
    misshaped = [name for name, array in found.items() if not _fits(array, variables[name])]
    _report(model, variables, arrays, missing, unused, misshaped, strict)
    check_values("a checkpoint", {n: a for n, a in found.items() if n not in misshaped})
    for name, array in found.items():
        if name not in misshaped:
            variables[name].assign(_to_keras(array, variables[name]))


def _variables(model, family):
    """The model's variables, by their names in the family's checkpoints."""
    backbone = getattr(model, "backbone", model)
    prefix = "backbone." if family == "mmseg" and backbone is not model else ""
    names: dict[str, Any] = {}
    for layer in backbone.layers:
        if layer.weights:
            where = prefix + _backbone_name(layer.name, family)
            names.update((f"{where}.{_WEIGHTS.get(w.name, w.name)}", w) for w in layer.weights)
    for part, places in _HEADS[family].items():
        head = getattr(model, part, None)
        for layer in head.layers if head is not None else ():
            attends = isinstance(layer, SelfAttention)
            known = _ATTENTION[family] if attends else _WEIGHTS
            where = places.get("attention" if attends else layer.name, layer.name)
            # What a family lacks keeps its own name, and is missing in every checkpoint of it.
            names.update((f"{where}.{known.get(w.name, w.name)}", w) for w in layer.weights)
    return names


def _backbone_name(name, family):
    stem, block = _STEM.fullmatch(name), _BLOCK.fullmatch(name)
    if stem:
        index, kind = int(stem[1]), stem[2]
        if family == "ccnet":
            return f"{kind}{index}"
        return f"stem.{3 * (index - 1) + (kind == 'bn')}"
    lite = _LITE.fullmatch(name)
    if lite:
        number, part, kind = lite.groups()
        if number is None:
            return "_conv_stem" if kind == "conv" else "_bn0"
        norm = _LITE_NORMS[part]
        return f"_blocks.{number}." + (f"_{part}_conv" if kind == "conv" else norm)
    if block is None:
        raise ValueError(
            "PyTorch weights are for the backbones of FsaNet.from_preset, whose strides are where "
            "PyTorch's ResNets have them, and for EfficientNet-Lites. Received: a backbone with "
            f"the layer {name!r}. Load into a model of keras_fsa.FsaNet.from_preset(...) or its "
            "`backbone`; for another network, build it in Keras, set its weights layer by layer "
            "(kernels transposed by (2, 3, 1, 0)), and pass it as `backbone`."
        )
    place = f"layer{int(block[1]) + 1}.{block[2]}."
    index, kind = int(block[3]), block[4]
    return place + (f"downsample.{int(kind == 'bn')}" if index == 0 else f"{kind}{index}")


def _is_ignored(name, model):
    is_backbone = getattr(model, "backbone", model) is model
    return name.endswith("num_batches_tracked") or (is_backbone and name.startswith(_TOP))


def _fits(array, variable):
    theirs, ours = array.shape, tuple(variable.shape)
    if len(ours) == 4:
        depthwise = ours[3] == 1 and theirs == tuple(ours[i] for i in (2, 3, 0, 1))
        return depthwise or theirs == tuple(ours[i] for i in (3, 2, 0, 1))
    if len(ours) == 2:  # a 1x1 convolution over positions
        return theirs[:2] == ours[::-1] and all(size == 1 for size in theirs[2:])
    return tuple(n for n in theirs if n > 1) == tuple(n for n in ours if n > 1)


def _to_keras(array, variable):
    if len(variable.shape) == 4:
        kernel = array.transpose(2, 3, 1, 0)
        # Channels of a depthwise kernel are outputs here, inputs in Keras.
        return kernel if kernel.shape == tuple(variable.shape) else kernel.swapaxes(2, 3)
    if len(variable.shape) == 2:
        return array.reshape(array.shape[:2]).T
    return array.reshape(variable.shape)


def _report(model, variables, arrays, missing, unused, misshaped, strict):
    """Report what does not fit: an error, or a warning if the rest is to be loaded."""
    if not (missing or unused or misshaped):
        return
    lines = [f"missing: {name} {tuple(variables[name].shape)}" for name in missing]
    lines += [f"not used: {name} {arrays[name].shape}" for name in unused]
    lines += [
        f"misshaped: {name} {arrays[name].shape}, for a weight {tuple(variables[name].shape)}"
        for name in misshaped
    ]
    listing = "\n  ".join(lines)
    received = (
        f"Received: a checkpoint of {len(arrays)} entries for {model.name!r} with {len(variables)} "
        f"weights: {len(missing)} missing, {len(unused)} not used, {len(misshaped)} misshaped, "
        "shapes as each side writes them"
    )
    if len(missing) + len(misshaped) == len(variables):
        raise ValueError(
            f"A checkpoint must be of the model it is loaded into. {received}, so nothing fits. "
            "Take the preset that the checkpoint was trained with; for weights of another network, "
            "build that network in Keras, with its weights, and pass it as `backbone`.\n  "
            f"{listing}"
        )
    if not strict:
        warnings.warn(f"Loaded what fits. {received}:\n  {listing}", stacklevel=3)
        return
    advice = "Take the preset that the checkpoint was trained with, or load what fits by"
    if misshaped and not missing and not unused and all(_is_classifier(n) for n in misshaped):
        advice = "The number of classes differs; keep all but the last layers by"
    raise ValueError(
        f"A checkpoint must fit the model in every name and shape. {received}. Nothing was loaded. "
        f"{advice} strict=False.\n  {listing}"
    )


def _is_classifier(name):
    places = [part["logits"] for family in _HEADS.values() for part in family.values()]
    return name.rpartition(".")[0] in places


def check_values(source: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Raise a `ValueError` naming the first array with a value that no weight can have."""
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype("float32")).all()
        if not finite:
            broken = "NaN, an infinity or a value beyond float32"
        elif name.endswith(("running_var", "moving_variance")) and (array < 0).any():
            broken = "a negative variance"
        else:
            continue
        raise ValueError(
            f"Weights must be finite in float32, and variances not negative. Received: {source} "
            f"whose entry {name!r} has {broken}. Fetch the file again, or take an earlier one."
        )


def read_arrays(weights: Path | Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by name, without wrapper and common prefix.

    Args:
        weights: as for `load_pytorch_weights`.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `load_pytorch_weights` does.
    """
    if not isinstance(weights, (str, os.PathLike, Mapping)):
        raise ValueError(
            "`weights` must be the path of a .pth, .pt or .safetensors file, or a dict of arrays. "
            f"Received: weights={weights!r}. Give the path of a file that exists."
        )
    if isinstance(weights, Mapping):
        source, entries = "a dict", weights
    else:
        source = os.fspath(weights)
        if not os.path.isfile(source):
            raise FileNotFoundError(
                f"`weights` must be a file or a dict. Received: weights={source!r}, which is no "
                "file. Give the path of one that exists."
            )
        entries = (_read_safetensors if source.endswith(".safetensors") else _read_torch)(source)
    if isinstance(entries, Mapping) and isinstance(entries.get("state_dict"), Mapping):
        entries = entries["state_dict"]
    arrays = {}
    if isinstance(entries, Mapping):
        arrays = {name: _to_numpy(value) for name, value in entries.items()}
    if not arrays or any(
        not isinstance(name, str) or array is None for name, array in arrays.items()
    ):
        kind = f"the keys {sorted(map(str, entries))[:9]}" if arrays else type(entries).__name__
        raise ValueError(
            "A checkpoint must be a dict of arrays by name, or have one under 'state_dict'. "
            f"Received: {source} with {kind}. Pass its state dict."
        )
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    return arrays


def _to_numpy(value):
    """A numeric array, or None for anything else. NumPy has no bfloat16: it becomes float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":  # of ml_dtypes
        array = array.astype("float32")
    return array if array.dtype.kind in "fiub" else None


def _read_safetensors(path):
    numpy_reader = optional_import("safetensors.numpy", "weights")
    # Keras' own, which teaches NumPy bfloat16.
    optional_import("ml_dtypes", "weights")
    try:
        return numpy_reader.load_file(path)
    except Exception as error:
        raise ValueError(_damaged(path, error)) from error


def _read_torch(path):
    torch = optional_import("torch", "torch")
    try:
        # PyTorch looks at no checksum.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(f"the checksum of its entry {damaged!r} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        code = _CODE.search(str(error))
        if isinstance(error, pickle.UnpicklingError) and code:
            raise ValueError(
                "A checkpoint must hold arrays alone: code in it could do anything. Received: "
                f"{path!r}, which names more ({code[0]}). If you trust where it comes from, save "
                "its state dict alone: torch.save(torch.load(path, weights_only=False)"
                "['state_dict'], new_path)."
            ) from error
        raise ValueError(_damaged(path, error)) from error


def _damaged(path, error):
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return (
        f"A checkpoint must be a whole file of its kind. Received: {path!r} of "
        f"{os.path.getsize(path)} bytes, which cannot be read ({reason}). Fetch it again."
    )
