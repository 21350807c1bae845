"""The authors' networks, from their state dicts: names, shapes, weights by a rule, and results.

The networks run in PyTorch's functions, the attention in the float64 reference: independent of the
library.
"""

import json
import zlib
from pathlib import Path

import numpy as np

from tests import reference

GOLDEN = Path(__file__).parent / "golden"


def norm(name, channels):
    shapes = {f"{name}.{last}": (channels,) for last in ("weight", "bias")}
    shapes |= {f"{name}.running_{last}": (channels,) for last in ("mean", "var")}
    return {**shapes, f"{name}.num_batches_tracked": ()}


def stages(blocks, stem, prefix):
    """Shapes of the bottleneck blocks, alike in both families."""
    shapes, channels = {}, stem[-1]
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            name = f"{prefix}layer{stage + 1}.{block}"
            sizes = ((width, channels, 1), (width, width, 3), (4 * width, width, 1))
            for i, (out, into, window) in enumerate(sizes, 1):
                shapes[f"{name}.conv{i}.weight"] = (out, into, window, window)
                shapes |= norm(f"{name}.bn{i}", out)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * width, channels, 1, 1)
                shapes |= norm(f"{name}.downsample.1", 4 * width)
            channels = 4 * width
    return shapes


def ccnet_shapes(blocks=(3, 4, 23, 3), classes=19, width=512, auxiliary=512):
    shapes, channels = {}, 3
    for i, out in enumerate((64, 64, 128), 1):
        shapes[f"conv{i}.weight"] = (out, channels, 3, 3)
        shapes |= norm(f"bn{i}", out)
        channels = out
    shapes |= stages(blocks, (64, 64, 128), "")
    shapes |= {"dsn.0.weight": (auxiliary, 1024, 3, 3), "dsn.0.bias": (auxiliary,)}
    shapes |= norm("dsn.1", auxiliary)
    shapes |= {"dsn.4.weight": (classes, auxiliary, 1, 1), "dsn.4.bias": (classes,)}
    shapes["head.conva.0.weight"] = (width, 2048, 3, 3)
    shapes |= norm("head.conva.1", width)
    shapes |= {"head.fsa.out_bias": (1, width, 1), "head.fsa.gamma": (1,)}
    shapes["head.fsa.query_conv.weight"] = (width // 8, width, 1)
    shapes["head.fsa.key_conv.weight"] = (width // 8, width, 1)
    shapes["head.fsa.value_conv.weight"] = (width, width, 1)
    shapes["head.convb.0.weight"] = (width, width, 3, 3)
    shapes |= norm("head.convb.1", width)
    shapes["head.bottleneck.0.weight"] = (width, 2048 + width, 3, 3)
    shapes |= norm("head.bottleneck.1", width)
    shapes["head.bottleneck.4.weight"] = (classes, width, 1, 1)
    return {**shapes, "head.bottleneck.4.bias": (classes,)}


def mmseg_shapes(blocks=(3, 4, 23, 3), classes=19, width=512, auxiliary=256):
    shapes, channels = {}, 3
    for i, out in enumerate((32, 32, 64)):
        shapes[f"backbone.stem.{3 * i}.weight"] = (out, channels, 3, 3)
        shapes |= norm(f"backbone.stem.{3 * i + 1}", out)
        channels = out
    shapes |= stages(blocks, (32, 32, 64), "backbone.")
    head, block = "decode_head", "decode_head.nl_block"
    for place, out, into in (
        (f"{head}.convs.0", width, 2048),
        (f"{head}.convs.1", width, width),
        (f"{head}.conv_cat", width, 2048 + width),
        ("auxiliary_head.convs.0", auxiliary, 1024),
    ):
        shapes[f"{place}.conv.weight"] = (out, into, 3, 3)
        shapes |= norm(f"{place}.bn", out)
    for name in ("g", "theta", "phi"):
        shapes[f"{block}.{name}.conv.weight"] = (width // 2, width, 1)
    shapes[f"{block}.conv_out.conv.weight"] = (width, width // 2, 1)
    shapes |= norm(f"{block}.conv_out.bn", width)
    for place, into in ((head, width), ("auxiliary_head", auxiliary)):
        shapes |= {
            f"{place}.conv_seg.weight": (classes, into, 1, 1),
            f"{place}.conv_seg.bias": (classes,),
        }
    return shapes


def by_rule(name, shape, salt=""):
    """The value of an entry, by the rule that the golden results were made with."""
    rng = np.random.default_rng(zlib.crc32((salt + name).encode()))
    last = name.split(".")[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, "int64")
    if last == "running_mean":
        value = 0.1 * rng.standard_normal(shape)
    elif last == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif last == "gamma":
        value = np.full(shape, 0.02)
    elif last in ("bias", "out_bias"):
        value = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1:
        value = rng.uniform(0.5, 1.0, shape) * (0.3 if ".bn3." in name else 1)
    else:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    return value.astype("float32")


def state_dict(shapes, salt=""):
    return {name: by_rule(name, shape, salt) for name, shape in shapes.items()}


def golden(name):
    """Results of a published network, its meta data, and the input `(1, hw, hw, 3)`."""
    results = dict(np.load(GOLDEN / f"{name}.npz"))
    meta = json.loads(str(results.pop("meta")))
    rng = np.random.default_rng(zlib.crc32((meta["salt"] + "input").encode()))
    x = rng.standard_normal((1, 3, meta["input_hw"], meta["input_hw"])).astype("float32")
    return results, meta, x.transpose(0, 2, 3, 1)


def mmseg_network(weights, x, blocks, frequencies, affinity, recurrence):
    """Stage 4, stage 5, logits and auxiliary logits of the mmseg family, channels last."""
    import torch
    from torch.nn import functional as f

    w = {name: torch.tensor(value) for name, value in weights.items()}

    def conv_bn(x, conv, bn, stride=1, rate=1):
        kernel = w[f"{conv}.weight"]
        padding = rate * (kernel.shape[-1] // 2)
        x = f.conv2d(x, kernel, None, stride, padding, rate)
        mean, variance = w[f"{bn}.running_mean"], w[f"{bn}.running_var"]
        return f.batch_norm(x, mean, variance, w[f"{bn}.weight"], w[f"{bn}.bias"])

    def module(x, name):
        return f.relu(conv_bn(x, f"{name}.conv", f"{name}.bn"))

    def bottleneck(x, name, stride, rate):
        y = f.relu(conv_bn(x, f"{name}.conv1", f"{name}.bn1"))
        y = f.relu(conv_bn(y, f"{name}.conv2", f"{name}.bn2", stride, rate))
        y = conv_bn(y, f"{name}.conv3", f"{name}.bn3")
        if f"{name}.downsample.0.weight" in w:
            x = conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        return f.relu(x + y)

    def attention(x):
        block = "decode_head.nl_block"
        named = {
            "query_kernel": "theta.conv.weight",
            "key_kernel": "phi.conv.weight",
            "value_kernel": "g.conv.weight",
            "output_kernel": "conv_out.conv.weight",
            "gamma": "conv_out.bn.weight",
            "beta": "conv_out.bn.bias",
            "moving_mean": "conv_out.bn.running_mean",
            "moving_variance": "conv_out.bn.running_var",
        }
        ours = {ours: weights[f"{block}.{theirs}"] for ours, theirs in named.items()}
        ours = {name: value.squeeze().T for name, value in ours.items()}
        band = ((0, frequencies), (0, frequencies))
        y = reference.self_attention(last(x), ours, affinity, band, recurrence)
        return torch.tensor(y.astype("float32")).permute(0, 3, 1, 2)

    def last(x):
        return x.permute(0, 2, 3, 1).numpy()

    def classify(x, name):
        return f.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = torch.tensor(x).permute(0, 3, 1, 2)
    for i in range(3):
        x = f.relu(
            conv_bn(x, f"backbone.stem.{3 * i}", f"backbone.stem.{3 * i + 1}", 2 if i == 0 else 1)
        )
    x = f.max_pool2d(x, 3, 2, 1)
    features = []
    # Contract dilation: the first block of a dilated stage has half the stage's.
    for stage, (stride, rate) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4))):
        for block in range(blocks[stage]):
            first = block == 0
            x = bottleneck(
                x,
                f"backbone.layer{stage + 1}.{block}",
                stride if first else 1,
                max(1, rate // 2) if first else rate,
            )
        features.append(x)
    stage4, stage5 = features[2:]
    y = attention(module(stage5, "decode_head.convs.0"))
    y = module(y, "decode_head.convs.1")
    y = module(torch.cat([stage5, y], 1), "decode_head.conv_cat")
    auxiliary = module(stage4, "auxiliary_head.convs.0")
    return {
        "stage4": last(stage4),
        "stage5": last(stage5),
        "logits": last(classify(y, "decode_head.conv_seg")),
        "auxiliary_logits": last(classify(auxiliary, "auxiliary_head.conv_seg")),
    }
