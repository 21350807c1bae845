r"""FsaNet beside the same network in plain PyTorch: time of inference and of a training step.

    KERAS_BACKEND=torch python -m benchmarks.witness --backbone resnet101 --size 257x257

The witness is written as one writes PyTorch: `torch.nn.Conv2d` and `BatchNorm2d` in the memory
format that is faster, no Keras. It has the weights of the `FsaNet` of the same run, and gives the
same logits. FsaNet runs as users run it, by `predict_on_batch` and `train_on_batch`. Under torch
the two take turns; under TensorFlow and JAX, the witness runs in a process of its own, twice.
Times are minima.
"""

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import time

import keras
import numpy as np

import keras_fsa
from benchmarks import measuring
from benchmarks.__main__ import _size as parse_size
from keras_fsa.files import whole_file
from keras_fsa.spectral import dct_basis

RATES = {"learning_rate": 0.01, "momentum": 0.9}


def build_witness(model):
    """The network of an `FsaNet` on a ResNet with dot-product attention, as a `torch.nn.Module`."""
    import torch
    from torch import nn
    from torch.nn import functional

    def tensor(x):
        return torch.from_numpy(np.array(keras.ops.convert_to_numpy(x)))

    def convolution(layer):
        kernel = tensor(layer.kernel).permute(3, 2, 0, 1).contiguous()
        sides = zip(layer.dilation_rate, layer.kernel_size, strict=True)
        module = nn.Conv2d(
            kernel.shape[1],
            kernel.shape[0],
            tuple(kernel.shape[2:]),
            layer.strides,
            [d * (k - 1) // 2 for d, k in sides],
            layer.dilation_rate,
            bias=layer.use_bias,
        )
        module.weight.data = kernel
        if layer.use_bias:
            module.bias.data = tensor(layer.bias)
        return module

    def norm(layer):
        module = nn.BatchNorm2d(layer.gamma.shape[0], layer.epsilon, 1 - layer.momentum)
        module.weight.data, module.bias.data = tensor(layer.gamma), tensor(layer.beta)
        module.running_mean.data = tensor(layer.moving_mean)
        module.running_var.data = tensor(layer.moving_variance)
        return module

    def block(graph, name):
        layers = [convolution(graph.get_layer(f"{name}_conv")), norm(graph.get_layer(f"{name}_bn"))]
        return nn.Sequential(*layers)

    names = {layer.name for layer in model.backbone.layers}
    stem = "conv1" if "conv1_conv" in names else None
    if stem is None or model.attention_layer().affinity.name != "dot_product":
        raise ValueError(
            "The witness knows ResNets with one convolution in the stem, and the dot product. "
            f"Received: {model.backbone.name}. Pass --backbone resnet50, 101 or 152, or 18 or 34."
        )

    class Unit(nn.Module):
        def __init__(self, prefix):
            super().__init__()
            graph = model.backbone
            count = sum(f"{prefix}_{i}_conv" in names for i in (1, 2, 3))
            self.convs = nn.ModuleList(block(graph, f"{prefix}_{i + 1}") for i in range(count))
            self.shortcut = nn.Identity()
            if f"{prefix}_0_conv" in names:
                self.shortcut = block(graph, f"{prefix}_0")

        def forward(self, x):
            y = x
            for number, conv in enumerate(self.convs):
                y = conv(y)
                if number + 1 < len(self.convs):
                    y = functional.relu(y, inplace=True)
            return functional.relu(y + self.shortcut(x), inplace=True)

    class Attention(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.recurrence, self.frequencies = layer.recurrence, layer.frequencies
            for name in ("query_kernel", "key_kernel", "value_kernel", "gain", "output_bias"):
                setattr(self, name, nn.Parameter(tensor(getattr(layer, name))))
            self.bases = {}

        def basis(self, size):
            if size not in self.bases:
                self.bases[size] = tensor(dct_basis(size, self.frequencies))
            return self.bases[size]

        def forward(self, x):
            batch, channels, height, width = x.shape
            rows, columns = self.basis(height), self.basis(width)
            tokens = rows.T @ (x @ columns)
            tokens = tokens.reshape(batch, channels, -1).transpose(1, 2)
            total = 0
            for _ in range(self.recurrence):
                z = tokens + total
                outer = (z @ self.key_kernel).transpose(1, 2) @ (z @ self.value_kernel)
                y = (z @ self.query_kernel) @ outer / (height * width)
                bias = torch.zeros_like(y)
                bias[:, 0] = self.output_bias * (height * width) ** 0.5
                total = total + self.gain * (y + bias)
            k = self.frequencies
            total = total.transpose(1, 2).reshape(batch, channels, k, k)
            return x + rows @ total @ columns.T

    class Witness(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = block(model.backbone, "conv1")
            self.stages = nn.ModuleList()
            for stack in range(4):
                prefixes = [f"v2_stack_{stack}_block{i}" for i in range(1, 99)]
                prefixes = [prefix for prefix in prefixes if f"{prefix}_1_conv" in names]
                self.stages.append(nn.Sequential(*map(Unit, prefixes)))
            self.before, self.after, self.fuse = (
                block(model.head, name) for name in ("before", "after", "fuse")
            )
            self.attention = Attention(model.attention_layer())
            self.dropout = nn.Dropout2d(model.head.get_layer("dropout").rate)
            self.logits = convolution(model.head.get_layer("logits"))
            self.auxiliary = None
            if model.auxiliary_head is not None:
                self.auxiliary = block(model.auxiliary_head, "auxiliary")
                self.auxiliary_logits = convolution(model.auxiliary_head.get_layer("logits"))
            mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
            self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None])
            self.register_buffer("deviation", 255 * torch.tensor(deviation)[:, None, None])

        def forward(self, images):
            size = images.shape[2:]
            x = (images - self.mean) / self.deviation
            x = functional.relu(self.stem(x), inplace=True)
            x = functional.max_pool2d(x, 3, 2, padding=1)
            for stage in self.stages[:3]:
                x = stage(x)
            stage4, stage5 = x, self.stages[3](x)
            x = functional.relu(self.before(stage5), inplace=True)
            x = functional.relu(self.after(self.attention(x)), inplace=True)
            x = functional.relu(self.fuse(torch.cat([stage5, x], 1)), inplace=True)
            logits = functional.interpolate(self.logits(self.dropout(x)), size, mode="bilinear")
            if not self.training or self.auxiliary is None:
                return logits
            x = self.dropout(functional.relu(self.auxiliary(stage4), inplace=True))
            x = functional.interpolate(self.auxiliary_logits(x), size, mode="bilinear")
            return logits, x

    return Witness().to(memory_format=torch.channels_last)


def witness_calls(model, images, masks):
    """Functions of no argument: inference and a training step of the witness."""
    import torch

    module = build_witness(model)
    optimizer = torch.optim.SGD(
        module.parameters(), lr=RATES["learning_rate"], momentum=RATES["momentum"]
    )

    def given(images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        return x.contiguous(memory_format=torch.channels_last)

    def infer():
        module.eval()
        with torch.no_grad():
            return module(given(images[:1])).permute(0, 2, 3, 1).numpy()

    def train():
        module.train()
        logits, auxiliary = module(given(images))
        target = torch.from_numpy(masks).long()
        loss = torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
        loss = loss + 0.4 * torch.nn.functional.cross_entropy(auxiliary, target, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss)

    return {"inference": infer, "training step": train}


def fsanet_calls(model, images, masks):
    """The same of FsaNet, as users call it."""
    model.compile(keras.optimizers.SGD(**RATES), metrics=[])
    return {
        "inference": lambda: model.predict_on_batch(images[:1]),
        "training step": lambda: model.train_on_batch(images, masks),
    }


def fastest(calls, rounds):
    """Seconds of each call: the least of a number of rounds, in which they take turns."""
    found = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_:  # the first one builds and compiles
                found[name].append(time.perf_counter() - start)
    return {name: min(seconds) for name, seconds in found.items()}


def _in_a_process(arguments):
    command = [sys.executable, "-m", "benchmarks.witness", *arguments, "--alone"]
    done = subprocess.run(
        command,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments=None):
    """Measure, and print a table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--size", type=parse_size, default=(257, 257), metavar="HxW")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--training", action="store_true", help="a step of two images, too")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(0)
    model = keras_fsa.FsaNet(19, options.backbone)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, *options.size, 3)).astype("uint8")
    masks = random.integers(0, 19, (2, *options.size)).astype("uint8")
    kinds = ("inference", "training step") if options.training else ("inference",)
    networks = {}
    if measuring.BACKEND == "torch":
        networks["plain PyTorch"] = witness_calls(model, images, masks)
    if not options.alone:
        networks["FsaNet"] = fsanet_calls(model, images, masks)
    rows = []
    for kind in kinds:
        calls = {name: network[kind] for name, network in networks.items()}
        rows.append({"kind": kind, **fastest(calls, options.rounds)})
    if options.alone:
        print(json.dumps({row["kind"]: row["plain PyTorch"] for row in rows}))
        return rows
    if measuring.BACKEND != "torch":
        given = [argument for argument in arguments if argument not in ("--json", options.json)]
        around = [_in_a_process(given) for _ in range(2)]
        for row in rows:
            row["plain PyTorch"] = min(item[row["kind"]] for item in around)
    for row in rows:
        row["ratio"] = row["FsaNet"] / row["plain PyTorch"]
    height, width = options.size
    print(f"\n{options.backbone}, {height}x{width}, {measuring.BACKEND}, seconds\n")
    print("| | plain PyTorch | FsaNet | ratio |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        values = [row["plain PyTorch"], row["FsaNet"], row["ratio"]]
        print(f"| {row['kind']} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    if options.json:
        result = {
            "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "backend": measuring.BACKEND,
            "threads": measuring.threads(),
            "backbone": options.backbone,
            "size": options.size,
            "rows": rows,
        }
        with whole_file(options.json) as name, open(name, "w") as file:
            json.dump(result, file, indent=1)
    return rows


if __name__ == "__main__":
    main()
