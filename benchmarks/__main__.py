"""`python -m benchmarks`: what attention costs, on this backend and this device."""

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import sys
import time

from benchmarks import bars, measuring, methods, report, resident
from keras_fsa.files import whole_file

FREQUENCY_METHODS = ("dot_product", "linear_softmax")


def _size(text):
    try:
        height, width = (int(part) for part in text.split("x"))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(
            f"a size must be HEIGHTxWIDTH. Received: {text!r}. Write for example 97x97."
        )
    return height, width


def parse(arguments):
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time, operations and memory of frequency self-attention, of what it replaces "
        "and of what could be taken instead. Prints a Markdown table.",
    )
    add = parser.add_argument
    add("--sizes", nargs="+", type=_size, default=[(33, 33), (65, 65), (97, 97)], metavar="HxW")
    add("--channels", type=int, default=512)
    add("--frequencies", type=int, default=8)
    add("--methods", nargs="+", choices=methods.ALL_METHODS, metavar="METHOD")
    add("--batch", type=int, default=1)
    add("--dtype", default="float32", help="a Keras dtype policy, such as mixed_bfloat16")
    add("--training", action="store_true", help="also measure forward and backward together")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="XLA on TensorFlow, torch.compile beside eager on torch. Default: yes, but on torch "
        "only on a GPU. JAX always compiles",
    )
    add("--rounds", type=int, default=20, help="how often fast methods are timed")
    add("--seconds", type=float, default=60, help="of timing for each size")
    add(
        "--no-memory",
        action="store_true",
        help="leave out memory where each method needs a process for it",
    )
    add(
        "--cpu-time",
        action="store_true",
        help="time the processor's work, not the clock: for a busy machine, and with one thread",
    )
    add("--model", nargs="?", const="resnet101", metavar="BACKBONE", help="FsaNet as a whole, too")
    add("--model-size", type=_size, default=(513, 513), metavar="HxW")
    add("--json", metavar="FILE")
    add("--plot", metavar="FILE")
    add("--compare", metavar="FILE", help="an earlier --json: print which rows got slower")
    return parser.parse_args(arguments)


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _too_large(method, shape, training, kind):
    """Why a method would not fit into this machine's memory, or None: a CPU has no second try."""
    name = methods.HALF_METHODS.get(method, method)
    if kind != "cpu" or name not in ("regular", "fused") or not hasattr(os, "sysconf"):
        return None
    heads = 1 if name == "regular" else -(-shape[-1] // 64)
    tables = heads * (4 if training else 2)
    need = tables * methods.memory_of_regular(shape)
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # A child that tells the memory of a call takes as much as its parent holds.
    return f"left out: may need {need / 2**30:.0f} GiB" if need > 0.4 * have else None


def _first_line(error):
    return f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def measure_size(names, shape, options, modes, kind):
    """Rows of all methods at one size."""
    _, height, width, _ = shape
    rows: dict[tuple, dict] = {}
    calls = {}
    passes = (False, True) if options.training else (False,)
    for mode in modes:
        for training in passes:
            for name in names:
                if mode == "unknown sizes" and name not in FREQUENCY_METHODS:
                    continue
                _say(f"{height}x{width}: {name}, {mode}{', training' if training else ''}")
                layer = methods.make_layer(name, shape, options.frequencies, options.dtype)
                row = {
                    "method": name,
                    "mode": mode,
                    "training": training,
                    "height": height,
                    "width": width,
                    "positions": height * width,
                    "dtype": layer.dtype_policy.name,
                    "time": None,
                    "least": None,
                    "rounds": 0,
                    "flops": None,
                    "flops_counted": None,
                    "flops_counted_by": None,
                    "memory": None,
                    "memory_by": None,
                }
                rows[name, mode, training] = row
                if not training:
                    row["flops"] = shape[0] * methods.flops(layer, height, width)
                note = _too_large(name, shape, training, kind)
                if note:
                    row["note"] = note
                    continue
                try:
                    x = measuring.make_map(shape, layer.dtype_policy.name)
                    call = measuring.Call(layer, x, training, mode)
                    call.run()
                    row["memory"], row["memory_by"] = call.peak_memory(), call.memory_source
                    if not training:
                        row["flops_counted"] = call.counted_flops()
                        row["flops_counted_by"] = call.flops_source
                except Exception as error:  # One method out of memory must not end the others.
                    row["note"] = _first_line(error)
                    continue
                calls[name, mode, training] = call
    for name, mode, training in calls:
        key = (name, mode, training)
        if rows[key]["memory"] is None and options.no_memory:
            rows[key]["memory_by"] = None
        elif rows[key]["memory"] is None:
            _say(f"{height}x{width}: memory of {name}, in a child process")
            rows[key]["memory"] = resident.peak_memory_in_child(
                name, shape, options.frequencies, options.dtype, training, mode
            )
    _say(f"{height}x{width}: timing, about {options.seconds:.0f} s")
    runs = {key: call.run for key, call in calls.items()}
    clock = time.process_time if options.cpu_time else time.perf_counter
    times = measuring.time_round_robin(runs, options.rounds, options.seconds, clock)
    for key, (seconds, least, rounds) in times.items():
        rows[key].update(time=seconds, least=least, rounds=rounds)
    for (name, mode, training), row in rows.items():
        del name
        reference = "jit" if mode == "unknown sizes" else mode
        for other in ("regular", "copy"):
            base = rows.get((other, reference, training), {})
            row[f"vs_{other}"] = {
                key: row[key] / base[key] if row[key] is not None and base.get(key) else None
                for key in ("time", "flops", "memory")
            }
    return list(rows.values())


def measure_model(backbone, size, mode, options):
    """FsaNet over the same network without attention: time of inference, memory of training."""
    shape = (options.batch, *size, 3)
    names = [f"fsanet:{backbone}", f"fsanet_without_attention:{backbone}"]
    memory, runs = {}, {}
    for name in names:
        _say(f"{name}: training step")
        layer = methods.make_layer(name, shape, training=True)
        call = measuring.Call(layer, measuring.make_map(shape, "float32"), True, mode)
        memory[name] = call.peak_memory()
        if memory[name] is None:
            memory[name] = resident.peak_memory_in_child(name, shape, 8, "float32", True, mode)
        memory_by, call = call.memory_source, None
    for name in names:
        _say(f"{name}: inference")
        layer = methods.make_layer(name, shape)
        x = measuring.make_map(shape, "float32")
        runs[name] = measuring.Call(layer, x, mode=mode).run
    times = measuring.time_round_robin(runs, options.rounds, options.seconds)
    with_attention, without = names
    return {
        "backbone": backbone,
        "shape": shape,
        "mode": mode,
        "seconds": {name: times[name][0] for name in names},
        "rounds": times[with_attention][-1],
        "bytes_of_training_step": memory,
        "memory_by": memory_by,
        "time": times[with_attention][0] / times[without][0],
        "memory": memory[with_attention] / memory[without],
    }


def main(arguments=None):
    """Measure, print the tables and write the files that the options ask for."""
    options = parse(arguments)
    earlier = None
    if options.compare:
        with open(options.compare) as file:
            earlier = json.load(file)
    kind, device_name = measuring.device()
    compiled = options.compile
    if compiled is None:
        compiled = measuring.BACKEND != "torch" or kind == "gpu"
    names = options.methods
    if names is None:
        names = methods.ALL_METHODS if kind == "gpu" else tuple(methods.METHODS)
    modes = measuring.modes(compiled)
    versions = ("keras", "numpy", measuring.BACKEND)
    result = {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "backend": measuring.BACKEND,
        "device": {"kind": kind, "name": device_name},
        "threads": measuring.threads(),
        "versions": {name: importlib.metadata.version(name) for name in versions},
        "setting": {
            "channels": options.channels,
            "batch": options.batch,
            "frequencies": options.frequencies,
            "dtype": options.dtype,
            "training": options.training,
            "clock": "CPU time" if options.cpu_time else "wall time",
        },
        "rows": [],
        "retraces": {},
    }
    size_modes = list(modes)
    if "jit" in modes and measuring.BACKEND == "tensorflow":
        size_modes.append("unknown sizes")
    for size in options.sizes:
        shape = (options.batch, *size, options.channels)
        result["rows"] += measure_size(names, shape, options, size_modes, kind)
    if "dot_product" in names:
        shapes = [(1, height, width, options.channels) for height, width in ((17, 19), (23, 18))]
        layer = methods.make_layer("dot_product", shapes[0], options.frequencies, options.dtype)
        maps = [measuring.make_map(shape, layer.dtype_policy.name) for shape in shapes]
        seen = measuring.retraces(layer, maps)
        if seen is not None:
            result["retraces"][size_modes[-1]] = seen
    if options.model:
        result["model"] = measure_model(options.model, options.model_size, modes[-1], options)
    result["bars"] = bars.check(result)

    about = result["threads"] | result["versions"]
    print(f"{device_name}, {result['date']},", ", ".join(f"{k} {v}" for k, v in about.items()))
    given = " ".join(sys.argv[1:] if arguments is None else map(str, arguments))
    print(f"`python -m benchmarks {given}`\n")
    print(report.markdown(result["rows"]))
    print("\n" + report.markdown_bars(result["bars"]))
    sources = sorted({row["memory_by"] for row in result["rows"] if row["memory_by"]})
    print(f"\nMemory beyond input and weights, output included; by: {', '.join(sources)}.")
    if measuring.BACKEND == "jax":
        print("Sizes are always known under jax.jit: each new one is compiled once.")
    if measuring.BACKEND == "torch":
        print("Sizes are never fixed under torch: known and unknown ones are the same call.")
    if options.json:
        with whole_file(options.json) as name, open(name, "w") as file:
            json.dump(result, file, indent=1)
    if options.plot:
        with whole_file(options.plot) as name:
            report.plot(result["rows"]).savefig(name, dpi=100)
    # Last: what was measured is kept where the two do not compare.
    if earlier is not None:
        print("\n" + report.markdown_comparison(earlier, result))
    return result


if __name__ == "__main__":
    main()
