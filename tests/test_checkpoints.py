import json
import os
import pickle
import re
import struct
import sys

import keras
import numpy as np
import pytest

import keras_fsa
from keras_fsa.backbones.resnet import deep_stem_resnet, resnet
from keras_fsa.models.presets import STEMS
from tests import authors
from tests.helpers import array

BLOCKS = (1, 1, 1, 2)
SMALL = {"classes": 5, "width": 16, "auxiliary": 8}


def network(family, blocks=BLOCKS, **arguments):
    """A published network with fewer blocks and channels."""
    name = {"ccnet": "ccnet_dot_r2_cityscapes", "mmseg": "mmseg_dot_r2_ade20k"}[family]
    arguments = {
        "backbone": deep_stem_resnet(blocks=blocks, **STEMS[family]),
        "num_classes": 5,
        "head_channels": 16,
        "auxiliary_channels": 8,
        "normalization": None,
        **arguments,
    }
    return keras_fsa.FsaNet.from_preset(name, **arguments)


@pytest.fixture(scope="module")
def ccnet():
    return network("ccnet")


@pytest.fixture(scope="module")
def mmseg():
    return network("mmseg")


@pytest.fixture(scope="module")
def checkpoint():
    """Of the small ccnet network."""
    return authors.state_dict(authors.ccnet_shapes(BLOCKS, **SMALL))


def reset(model):
    for weight in model.weights:
        weight.assign(np.full(weight.shape, 0.5))


def values(model):
    return [array(weight) for weight in model.weights]


def is_untouched(model):
    return all((value == 0.5).all() for value in values(model))


def results(model, x):
    features = model.backbone(model.normalize(x))
    outputs = {
        **features,
        "logits": model.head(features["stage5"]),
        "auxiliary_logits": model.auxiliary_head(features["stage4"]),
    }
    return {name: array(value) for name, value in outputs.items()}


def assert_close(outputs, expected, bound=1e-5):
    """Sums over a hundred layers in float32, in another order."""
    for name, value in expected.items():
        y = outputs[name][..., : value.shape[-1]]
        deviation = np.abs(y - value).max() / np.abs(value).max()
        print(f"{keras.backend.backend()} {name} {deviation:.1e}")
        assert y.shape == value.shape
        assert deviation < bound, (name, deviation)


@pytest.mark.parametrize("name", ["ccnet_model_dot_r2", "ccnet_model_lin_r1_short"])
def test_published_ccnet_networks(name):
    expected, meta, x = authors.golden(name)
    expected = {
        key.removesuffix("_first8"): value.transpose(0, 2, 3, 1) for key, value in expected.items()
    }
    shapes = authors.ccnet_shapes(meta["blocks"])
    arguments = {"normalization": None}
    if meta["blocks"] == [3, 4, 23, 3]:
        listed = json.loads((authors.GOLDEN / "ccnet_state_dict_shapes.json").read_text())
        assert shapes == {key: tuple(shape) for key, shape in listed.items()}
    else:
        arguments |= {
            "backbone": deep_stem_resnet(blocks=meta["blocks"], **STEMS["ccnet"]),
            "affinity": "linear_softmax",
            "frequencies": 5,
            "recurrence": 1,
        }
    model = keras_fsa.FsaNet.from_preset("ccnet_dot_r2_cityscapes", **arguments)
    keras_fsa.load_pytorch_weights(model, authors.state_dict(shapes, meta["salt"]))
    assert_close(results(model, x), expected)


@pytest.mark.parametrize("affinity", ["dot_product", "linear_softmax"])
def test_mmseg_network(rng, affinity):
    """Against PyTorch's functions on the same state dict, at a size where padding shows."""
    model = network("mmseg", blocks=(1, 1, 2, 2), affinity=affinity)
    weights = authors.state_dict(authors.mmseg_shapes((1, 1, 2, 2), **SMALL))
    keras_fsa.load_pytorch_weights(model, weights)
    x = rng.standard_normal((1, 66, 75, 3)).astype("float32")
    expected = authors.mmseg_network(weights, x, (1, 1, 2, 2), 5, affinity, 2)
    assert_close(results(model, x), expected)


@pytest.mark.parametrize("file", ["mmseg_dot_r2", "mmseg_lin_r1"])
def test_published_mmseg_attention(file):
    """The block's parameters arrive under their names in a whole network's checkpoint."""
    data = np.load(authors.GOLDEN / f"{file}.npz")
    meta = json.loads(str(data["meta"]))
    channels = data["x"].shape[1]
    shapes = authors.mmseg_shapes(BLOCKS, **{**SMALL, "width": channels})
    weights = authors.state_dict(shapes)
    for name in data.files:
        if name.startswith("param:"):
            key = f"decode_head.nl_block.{name.removeprefix('param:')}"
            assert key in weights
            weights[key] = data[name]
    model = network(
        "mmseg",
        head_channels=channels,
        affinity="dot_product" if "dot" in file else "linear_softmax",
        recurrence=meta["recurrence"],
        frequencies=meta["k"][1],
    )
    keras_fsa.load_pytorch_weights(model, weights)
    y = array(model.head.get_layer("attention")(data["x"].transpose(0, 2, 3, 1)))
    expected = data["y"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(y, expected, atol=1e-5 * np.abs(expected).max())


def test_non_local_networks_of_mmseg():
    """Regular attention, to be loaded and then taken to low frequencies: biases, 1x1 kernels."""
    shapes = authors.mmseg_shapes(BLOCKS, **SMALL)
    block = "decode_head.nl_block"
    for name in ("g", "theta", "phi"):
        shapes[f"{block}.{name}.conv.weight"] += (1,)
        shapes[f"{block}.{name}.conv.bias"] = (8,)
    weights = authors.state_dict(shapes)
    attention = keras_fsa.layers.SpatialSelfAttention(
        "softmax", key_dim=8, value_dim=8, use_bias=True, residual="batch_norm"
    )
    keras_fsa.load_pytorch_weights(network("mmseg", attention=attention), weights)
    for ours, theirs in (("query", "theta"), ("key", "phi"), ("value", "g")):
        kernel, bias = getattr(attention, f"{ours}_kernel"), getattr(attention, f"{ours}_bias")
        name = f"{block}.{theirs}.conv"
        np.testing.assert_array_equal(array(kernel), weights[f"{name}.weight"][:, :, 0, 0].T)
        np.testing.assert_array_equal(array(bias), weights[f"{name}.bias"])


def safetensors_bytes(arrays):
    """The format: length of the header, header in JSON, the arrays one after another."""
    header, body = {}, b""
    for name, value in arrays.items():
        data = np.ascontiguousarray(value).tobytes()
        kind = {"float32": "F32", "int64": "I64", "bfloat16": "BF16"}[str(value.dtype)]
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": kind, "shape": value.shape, "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "form", ["arrays", "tensors", "module", "state_dict", "pth", "legacy", "safetensors"]
)
def test_forms_of_a_checkpoint(ccnet, checkpoint, tmp_path, form):
    import torch

    reset(ccnet)
    entries = checkpoint
    if form in ("module", "pth"):
        entries = {f"module.{name}": value for name, value in entries.items()}
    if form in ("tensors", "state_dict", "pth", "legacy"):
        entries = {name: torch.tensor(value) for name, value in entries.items()}
    if form in ("state_dict", "pth"):
        entries = {"meta": {"epoch": 3, "CLASSES": ("road",)}, "state_dict": entries}
    if form in ("pth", "legacy"):
        path = tmp_path / "checkpoint.pth"
        torch.save(entries, path, _use_new_zipfile_serialization=form == "pth")
        entries = path
    elif form == "safetensors":
        entries = tmp_path / "model.safetensors"
        entries.write_bytes(safetensors_bytes(checkpoint))
    keras_fsa.load_pytorch_weights(ccnet, entries)
    attention = ccnet.head.get_layer("attention")
    gain = checkpoint["head.fsa.gamma"][0]
    assert array(attention.gain) == gain
    kernel = array(ccnet.backbone.get_layer("stack3_block1_2_conv").kernel)
    np.testing.assert_array_equal(kernel, checkpoint["layer4.1.conv2.weight"].transpose(2, 3, 1, 0))
    assert not any((value == 0.5).all() for value in values(ccnet))


def test_half_precision(ccnet, checkpoint, tmp_path):
    import torch

    entries = {name: torch.tensor(value) for name, value in checkpoint.items()}
    entries["bn1.bias"] = torch.nn.Parameter(entries["bn1.bias"].to(torch.bfloat16))
    keras_fsa.load_pytorch_weights(ccnet, entries)
    bias = array(ccnet.backbone.get_layer("conv1_bn").beta)
    np.testing.assert_allclose(bias, checkpoint["bn1.bias"], rtol=2**-8)
    reset(ccnet)
    halves = {**checkpoint, "bn1.bias": checkpoint["bn1.bias"].astype("bfloat16")}
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes(halves))
    keras_fsa.load_pytorch_weights(ccnet, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(array(ccnet.backbone.get_layer("conv1_bn").beta), bias)


def test_every_entry_that_does_not_fit_is_listed_at_once(ccnet, checkpoint):
    reset(ccnet)
    entries = dict(checkpoint)
    for name in ("conv1.weight", "head.fsa.out_bias"):
        del entries[name]
    entries["extra.weight"] = np.zeros((2, 3))
    entries["layer1.0.conv2.weight"] = np.zeros((64, 64, 1, 1))
    entries["head.fsa.query_conv.weight"] = np.zeros((3, 16, 1))
    with pytest.raises(ValueError) as info:
        keras_fsa.load_pytorch_weights(ccnet, entries)
    message = str(info.value)
    assert re.search(
        r"must fit the model in every name and shape\. Received: .*2 missing, 1 not "
        r"used, 2 misshaped.*Nothing was loaded\. .* strict=False",
        message,
    )
    for line in (
        "missing: conv1.weight (3, 3, 3, 64)",
        "missing: head.fsa.out_bias (16,)",
        "not used: extra.weight (2, 3)",
        "misshaped: layer1.0.conv2.weight (64, 64, 1, 1), for a weight (3, 3, 64, 64)",
        "misshaped: head.fsa.query_conv.weight (3, 16, 1), for a weight (16, 2)",
    ):
        assert line in message
    assert message.count("\n") == 5
    assert is_untouched(ccnet)
    with pytest.warns(UserWarning, match=r"Loaded what fits\. Received: .*2 missing, 1 not used"):
        keras_fsa.load_pytorch_weights(ccnet, entries, strict=False)
    assert (array(ccnet.backbone.get_layer("conv1_conv").kernel) == 0.5).all()
    np.testing.assert_array_equal(
        array(ccnet.backbone.get_layer("conv1_bn").gamma), checkpoint["bn1.weight"]
    )


def test_other_classes_keep_all_but_the_last_layers(ccnet):
    reset(ccnet)
    entries = authors.state_dict(authors.ccnet_shapes(BLOCKS, **{**SMALL, "classes": 19}))
    with pytest.raises(ValueError, match=r"number of classes differs; keep all .*strict=False"):
        keras_fsa.load_pytorch_weights(ccnet, entries)
    assert is_untouched(ccnet)
    with pytest.warns(UserWarning, match=r"0 missing, 0 not used, 4 misshaped"):
        keras_fsa.load_pytorch_weights(ccnet, entries, strict=False)
    kept = [weight.path for weight in ccnet.weights if (array(weight) == 0.5).all()]
    assert len(kept) == 4 and all("logits" in path for path in kept)


def test_a_checkpoint_of_another_network(ccnet):
    entries = authors.state_dict(authors.mmseg_shapes(BLOCKS, **SMALL))
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"Received: .*missing.*pass it as `backbone`"):
            keras_fsa.load_pytorch_weights(ccnet, {"a": np.zeros(3)}, strict=strict)
    with pytest.raises(ValueError, match=r"misshaped: backbone\.stem\.0\.weight"):
        keras_fsa.load_pytorch_weights(ccnet, entries)


@pytest.mark.parametrize("family", ["ccnet", "mmseg"])
def test_imagenet_checkpoints_into_the_backbone(request, family, tmp_path):
    model = request.getfixturevalue(family)
    reset(model)
    shapes = {"ccnet": authors.ccnet_shapes, "mmseg": authors.mmseg_shapes}[family](BLOCKS, **SMALL)
    entries = {
        name.removeprefix("backbone."): value
        for name, value in authors.state_dict(shapes).items()
        if not name.startswith(("head.", "dsn.", "decode_head.", "auxiliary_head."))
    }
    classifier = {"fc.weight": np.zeros((1000, 2048)), "fc.bias": np.zeros(1000)}
    keras_fsa.load_pytorch_weights(model.backbone, entries | classifier)
    assert not any((value == 0.5).all() for value in values(model.backbone))
    assert is_untouched(model.head)
    first = entries["conv1.weight" if family == "ccnet" else "stem.0.weight"]
    np.testing.assert_array_equal(
        array(model.backbone.get_layer("conv1_conv").kernel), first.transpose(2, 3, 1, 0)
    )
    with pytest.raises(ValueError, match=r"not used: head\.weight"):
        keras_fsa.load_pytorch_weights(model.backbone, entries | {"head.weight": np.zeros(2)})


def test_damaged_and_dangerous_files(ccnet, checkpoint, tmp_path):
    import torch

    reset(ccnet)
    path = tmp_path / "checkpoint.pth"
    torch.save({name: torch.tensor(value) for name, value in checkpoint.items()}, path)
    whole = path.read_bytes()
    marker = tmp_path / "ran"

    class Code:
        def __init__(self, function, *arguments):
            self.call = function, arguments

        def __reduce__(self):
            return self.call

    opens = Code(open, str(marker), "w")
    touches = Code(os.system, f"touch {marker}")

    for content in (whole[: len(whole) // 2], whole[:100], b"", b"not a checkpoint at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"must be a whole file .* bytes, which cannot be rea"):
            keras_fsa.load_pytorch_weights(ccnet, path)
    for save in (
        lambda: torch.save({"state_dict": {}, "meta": opens}, path),
        lambda: torch.save(touches, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps(opens, protocol=2)),
    ):
        save()
        with pytest.raises(ValueError, match=r"code in it could do anything\. Received: .*names m"):
            keras_fsa.load_pytorch_weights(ccnet, path)
    assert not marker.exists()
    assert is_untouched(ccnet)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer1.0.conv1.weight", np.nan, "NaN, an infinity or a value beyond float32"),
        ("head.fsa.gamma", -np.inf, "NaN, an infinity or a value beyond float32"),
        ("dsn.4.bias", 1e300, "NaN, an infinity or a value beyond float32"),
        ("layer4.1.bn2.running_var", -0.5, "a negative variance"),
    ],
)
def test_values_that_no_weight_can_have(ccnet, checkpoint, name, value, message):
    reset(ccnet)
    array = checkpoint[name].astype("float64")
    array.flat[-1] = value
    with pytest.raises(ValueError, match=rf"must be finite .* entry '{name}' has {message}\. Fet"):
        keras_fsa.load_pytorch_weights(ccnet, {**checkpoint, name: array})
    assert is_untouched(ccnet)


def test_a_flipped_byte(ccnet, checkpoint, tmp_path):
    import torch

    reset(ccnet)
    path = tmp_path / "checkpoint.pth"
    torch.save({name: torch.tensor(value) for name, value in checkpoint.items()}, path)
    content = bytearray(path.read_bytes())
    # In the middle of a convolution: the number stays finite.
    place = bytes(content).index(checkpoint["layer4.1.conv2.weight"].tobytes()[:64]) + 5000
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"whole file .*the checksum of its entry 'checkpoint/data"
    ):
        keras_fsa.load_pytorch_weights(ccnet, path)
    assert is_untouched(ccnet)


def test_damaged_safetensors(ccnet, checkpoint, tmp_path):
    reset(ccnet)
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(checkpoint)[:5000])
    with pytest.raises(ValueError, match=r"must be a whole file of its kind"):
        keras_fsa.load_pytorch_weights(ccnet, path)
    assert is_untouched(ccnet)


def test_wrong_arguments(ccnet, checkpoint):
    for weights in (None, 3, [checkpoint]):
        with pytest.raises(ValueError, match=r"`weights` must be the path .*Received: weights="):
            keras_fsa.load_pytorch_weights(ccnet, weights)
    with pytest.raises(
        ValueError, match=r"`model` must be an FsaNet or a backbone\. Received: mod"
    ):
        keras_fsa.load_pytorch_weights(None, checkpoint)
    with pytest.raises(ValueError, match=r"`strict` must be True or False\. Received: strict='no'"):
        keras_fsa.load_pytorch_weights(ccnet, checkpoint, strict="no")


def test_what_is_no_checkpoint(ccnet, checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a file or a dict\. Received: weights="):
        keras_fsa.load_pytorch_weights(ccnet, tmp_path / "none.pth")
    for entries in ({}, {"model": checkpoint}, {"state_dict": {"a": "text"}}):
        with pytest.raises(ValueError, match=r"must be a dict of arrays by name, .*Received: a d"):
            keras_fsa.load_pytorch_weights(ccnet, entries)
    with pytest.raises(ValueError, match=r"layer 'v2_stack_0_block1_1_conv'.*by layer"):
        keras_fsa.load_pytorch_weights(resnet("resnet18"), checkpoint)


@pytest.mark.parametrize(
    ("module", "suffix"), [("torch", "pth"), ("safetensors.numpy", "safetensors")]
)
def test_missing_packages(ccnet, tmp_path, monkeypatch, module, suffix):
    path = tmp_path / f"checkpoint.{suffix}"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install .keras_fsa\[(torch|weights)\]"):
        keras_fsa.load_pytorch_weights(ccnet, path)
