"""FsaNet on every engine beside the same network in plain PyTorch: inference and a training step.

    python -m benchmarks.witness --backbone resnet101 --size 257x257 --training

The witness is written as one writes PyTorch: `torch.nn.Conv2d` and `BatchNorm2d`, no Keras, in
PyTorch's own memory format and in its channels-last one. It has the weights of the `FsaNet` of its
process, and gives the same logits. FsaNet runs as users run it, by `predict_on_batch` and
`train_on_batch`. Each engine has a process of its own, and all take turns, one call at a time.
Times are minima. With one thread, CPU time is what the call takes on a machine that does nothing
else; where others use the machine, it is the one to look at.
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
from benchmarks.report import table
from keras_fsa.files import whole_file
from keras_fsa.spectral import dct_basis

PLAIN = "plain PyTorch"
ENGINES = {"torch": "torch", "tensorflow": "TensorFlow", "jax": "JAX"}
KINDS = ("inference", "training step")
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

    return Witness()


def witness_calls(model, images, masks, channels_last=False):
    """Functions of no argument: inference and a training step of the witness."""
    import torch

    format = torch.channels_last if channels_last else torch.contiguous_format
    module = build_witness(model).to(memory_format=format)
    optimizer = torch.optim.SGD(
        module.parameters(), lr=RATES["learning_rate"], momentum=RATES["momentum"]
    )

    def given(images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        return x.contiguous(memory_format=format)

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
        return float(loss.detach())

    return {"inference": infer, "training step": train}


def fsanet_calls(model, images, masks):
    """The same of FsaNet, as users call it."""
    model.compile(keras.optimizers.SGD(**RATES), metrics=[])
    return {
        "inference": lambda: model.predict_on_batch(images[:1]),
        "training step": lambda: model.train_on_batch(images, masks),
    }


def networks(model, images, masks):
    """The calls of each network of this engine, by the network's name."""
    name = f"FsaNet, {ENGINES[measuring.BACKEND]}"
    folded = keras_fsa.fold_batch_norm(model)
    found = {name: fsanet_calls(model, images, masks)}
    found[f"{name}, folded"] = {"inference": lambda: folded.predict_on_batch(images[:1])}
    if measuring.BACKEND == "torch":
        found[PLAIN] = witness_calls(model, images, masks)
        found[f"{PLAIN}, channels last"] = witness_calls(model, images, masks, channels_last=True)
    return found


def serve(options):
    """Name the networks of this engine, then answer each line, a network and a kind, by times."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (2, *options.size, 3)).astype("uint8")
    masks = random.integers(0, 19, (2, *options.size)).astype("uint8")
    found = networks(keras_fsa.FsaNet(19, options.backbone, align_corners=False), images, masks)
    _, device = measuring.device()
    pairs = [[name, kind] for kind in options.kinds for name in found if kind in found[name]]
    print(json.dumps({"calls": pairs, "device": device, **measuring.threads()}), flush=True)
    for line in sys.stdin:
        name, kind = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        found[name][kind]()
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)


class _Engine:
    def __init__(self, backend, arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.witness", *arguments, "--serve"],
            env={**os.environ, "KERAS_BACKEND": backend},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._read()

    def _read(self):
        # Libraries print, too.
        for line in self.process.stdout:
            if line.startswith(("{", "[")):
                return json.loads(line)
        raise RuntimeError(f"A process ended early, with code {self.process.wait()}, see above.")

    def call(self, name, kind):
        print(json.dumps([name, kind]), file=self.process.stdin, flush=True)
        return self._read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(options, arguments):
    """A row for each network and kind; and about each engine."""
    engines = {name: _Engine(name, arguments) for name in options.engines}
    calls = [(engine, *pair) for engine in engines.values() for pair in engine.about["calls"]]
    calls.sort(key=lambda call: KINDS.index(call[2]))
    found = {(name, kind): [] for _, name, kind in calls}
    for round_ in range(options.rounds + 1):
        for engine, name, kind in calls:
            times = engine.call(name, kind)
            if round_:  # the first one builds and compiles
                found[name, kind].append(times)
    for engine in engines.values():
        engine.close()
    rows = []
    for (name, kind), times in found.items():
        wall, cpu = (min(column) for column in zip(*times, strict=True))
        rows.append({"kind": kind, "network": name, "seconds": wall, "cpu_seconds": cpu})
    for row in rows:
        plain = next((r for r in rows if (r["kind"], r["network"]) == (row["kind"], PLAIN)), None)
        if plain:
            for unit in ("seconds", "cpu_seconds"):
                row[f"{unit} / plain"] = row[unit] / plain[unit]
    return rows, {name: engine.about for name, engine in engines.items()}


def markdown(rows):
    """The rows as a table."""
    columns = ("seconds", "seconds / plain", "cpu_seconds", "cpu_seconds / plain")
    lines = [
        [
            f"{row['kind']}: {row['network']}",
            *(f"{row[name]:.3f}" if name in row else "" for name in columns),
        ]
        for row in rows
    ]
    return table(["", "s", "/ plain", "CPU s", "/ plain"], lines)


def main(arguments=None):
    """Measure, and print a table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--size", type=parse_size, default=(257, 257), metavar="HxW")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=[*ENGINES])
    parser.add_argument("--training", action="store_true", help="a step of two images, too")
    parser.add_argument("--json", metavar="FILE", help="and the table beside it, as .md")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.kinds = KINDS if options.training else KINDS[:1]
    if options.serve:
        return serve(options)

    rows, about = measure(options, arguments)
    height, width = options.size
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    title = f"{options.backbone}, {height}x{width}, minimum of {options.rounds}, {date}"
    text = f"{title}, {next(iter(about.values()))['device']}\n\n{markdown(rows)}\n"
    print(text)
    if options.json:
        result = {"date": date, "about": about, "backbone": options.backbone, "rows": rows}
        result.update(size=options.size, rounds=options.rounds, command=" ".join(arguments))
        with whole_file(options.json) as name, open(name, "w") as file:
            json.dump(result, file, indent=1)
        with whole_file(os.path.splitext(options.json)[0] + ".md") as name, open(name, "w") as file:
            file.write(text)
    return rows


if __name__ == "__main__":
    main()
