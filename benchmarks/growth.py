r"""How the layer's time grows, and its share of the whole network's.

    KERAS_BACKEND=torch python -m benchmarks.growth --json benchmarks/results/torch-cpu-growth.json

One of batch, size and channels grows, while the others stay at the paper's case. A time in copies
of the map that stays where it is says that the layer grows as its input does. The share compares
the attention of `FsaNet` as it is by default, on a map of the size that it has there, with the
network's inference. Times are the least of some rounds, taken in turns.
"""

import argparse
import datetime as dt
import importlib.metadata
import json
import time
from pathlib import Path

from benchmarks import measuring, methods
from benchmarks.report import table
from keras_fsa.files import whole_file

METHODS = ("dot_product", "linear_softmax", "copy")
CASE = {"batch": 1, "size": 97, "channels": 512}
GROWING = {
    "batch": (1, 2, 4, 8, 16),
    "size": (33, 65, 97, 193, 385),
    "channels": (256, 512, 1024, 2048),
}
STRIDE = 8  # of named backbones
NETWORKS = (("resnet18", 257), ("resnet18", 513), ("resnet101", 257), ("resnet101", 513))


def _least(runs, options):
    clock = time.process_time if options.cpu_time else time.perf_counter
    times = measuring.time_round_robin(runs, options.rounds, options.seconds, clock)
    return {name: least for name, (_, least, _) in times.items()}


def _call(name, shape, mode):
    layer = methods.make_layer(name, shape)
    return measuring.Call(layer, measuring.make_map(shape, "float32"), mode=mode).run


def grow(axis: str, value: int, mode: str, options: argparse.Namespace) -> dict:
    """A row: seconds of each method where one of the case's numbers is replaced."""
    case = {**CASE, axis: value}
    shape = (case["batch"], case["size"], case["size"], case["channels"])
    seconds = _least({name: _call(name, shape, mode) for name in METHODS}, options)
    return {"axis": axis, **case, "seconds": seconds}


def share(backbone: str, size: int, mode: str, options: argparse.Namespace) -> dict:
    """A row: seconds of a network's inference, and of its attention by itself."""
    net = methods.make_layer(f"fsanet:{backbone}", (1, size, size, 3))
    attention = net.attention_layer()
    side = -(-size // STRIDE)
    channels = attention.query_kernel.shape[0]
    maps = {
        "network": (net, (1, size, size, 3)),
        "attention": (attention, (1, side, side, channels)),
    }
    runs = {
        name: measuring.Call(layer, measuring.make_map(shape, "float32"), mode=mode).run
        for name, (layer, shape) in maps.items()
    }
    return {"backbone": backbone, "size": size, "seconds": _least(runs, options)}


def markdown(result: dict) -> str:
    """Both tables of a result, as `--json` writes it."""
    lines = []
    for row in result["growth"]:
        positions = row["batch"] * row["size"] ** 2
        seconds, copy = row["seconds"], row["seconds"]["copy"]
        shape = [str(row["batch"]), f"{row['size']}x{row['size']}", str(row["channels"])]
        grown = list(CASE).index(row["axis"])
        shape[grown] = f"**{shape[grown]}**"
        cells = []
        for name in METHODS[:2]:
            nanoseconds = 1e9 * seconds[name] / positions / row["channels"]
            cells += [f"{nanoseconds:.2f}", f"{seconds[name] / copy:.1f}"]
        lines.append([*shape, *cells])
    header = ["batch", "map", "channels"]
    for name in ("dot product", "linear softmax"):
        header += [f"{name}, ns for a position and channel", "in copies of the map"]
    growth = table(header, lines)
    lines = [
        [
            f"{row['backbone']}, {row['size']}x{row['size']}",
            f"{1e3 * row['seconds']['network']:.0f}",
            f"{1e3 * row['seconds']['attention']:.1f}",
            f"{100 * row['seconds']['attention'] / row['seconds']['network']:.2g} %",
        ]
        for row in result["share"]
    ]
    header = ["FsaNet", "network, ms", "its attention, ms", "share"]
    return growth + "\n\n" + table(header, lines)


def section(folder: Path) -> str:
    """The tables of all engines that have been measured, each under its name."""
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*-cpu-growth.json"))]
    parts = [
        f"{r['backend']} {r['versions'][r['backend']]}, {r['device']}, {r['threads']['cpus']} core,"
        f" {r['clock']}, {r['date'][:10]}:\n\n{markdown(r)}"
        for r in results
    ]
    return "\n\n".join(parts)


def main(arguments=None):
    """Measure, print the tables, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--rounds", type=int, default=15)
    add("--seconds", type=float, default=10, help="of timing for each row")
    add("--networks", type=int, default=len(NETWORKS), help="how many of the shares")
    add("--cpu-time", action="store_true", help="for a busy machine, and with one thread")
    add("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    mode = measuring.modes(measuring.BACKEND != "torch")[0]
    versions = ("keras", "numpy", measuring.BACKEND)
    result = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "backend": measuring.BACKEND,
        "device": measuring.device()[1],
        "threads": measuring.threads(),
        "clock": "CPU time" if options.cpu_time else "wall time",
        "versions": {name: importlib.metadata.version(name) for name in versions},
        "growth": [],
        "share": [],
    }
    for axis, values in GROWING.items():
        result["growth"] += [grow(axis, value, mode, options) for value in values]
    result["share"] += [share(*network, mode, options) for network in NETWORKS[: options.networks]]
    print(markdown(result))
    if options.json:
        with whole_file(options.json) as name, open(name, "w") as file:
            json.dump(result, file, indent=1)
    return result


if __name__ == "__main__":
    main()
