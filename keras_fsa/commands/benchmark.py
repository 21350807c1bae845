r"""Measure a model's time and memory for images of a given size, and the attention's share of it.

    keras_fsa benchmark --model fsanet.keras --size 513 513

    keras_fsa benchmark --model signal_harbor --size 240 320 --batch 4

The model is a `.keras` file, an exported one (SavedModel, ONNX and so on), or a name that
keras_fsa.FsaNet.from_preset knows. It runs on the current engine (KERAS_BACKEND), as in your own
program: NumPy images in, NumPy logits out, so copies to and from a device are included.

- The first call traces and compiles. Then --runs calls are timed: the median is reported, and the
  minimum, which is what the machine can do when nothing else runs.
- Peak memory is that of the process so far; on a GPU, the memory that the engine has taken.
- Attention is timed by itself, on a map of the size that the model's layer is given; the time of a
  model that passes the map through is subtracted. Its operations are counted by keras_fsa.flops.

This measures one model where it is to run. `benchmarks/` in the repository compares methods.
"""

import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_fsa.commands.command import command, in_bytes
from keras_fsa.commands.data import channels_of
from keras_fsa.commands.models import load_model, model_file
from keras_fsa.flops import attention_flops
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.settings import Count, Pixels
from keras_fsa.training.devices import keep_tensorflow_off_gpus


@dataclass(frozen=True)
class Benchmark:
    """Measure a model's time and memory, and the attention's share of it."""

    model: str
    """A .keras file, an exported model, or the name of a preset."""
    size: tuple[Pixels, Pixels]
    """Height and width of the images in pixels."""
    batch: Count = 1
    """Images per call."""
    runs: Count = 20
    """Number of calls to time."""


def main(
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    description: str = __doc__,
) -> None:
    """Run the command, see `keras_fsa.commands.command.command`."""
    command(Benchmark, benchmark, arguments, program, description)


def benchmark(settings: Benchmark) -> None:
    """Measure, and print each figure on a line."""
    keep_tensorflow_off_gpus()
    model = _open(settings.model)
    channels = channels_of(model)
    shape = (settings.batch, *settings.size, channels)
    images = np.random.default_rng(0).integers(0, 256, shape).astype("float32")
    run: Any = model.predict_on_batch if isinstance(model, keras.Model) else model
    before = peak_of_process()
    first, times = timed(lambda: run(images), settings.runs)
    after = peak_of_process()
    median, least = statistics.median(times), min(times)

    def line(name, value):
        print(f"{name:>12}  {value}", flush=True)

    line("model", f"{settings.model}, on {_engine(model)}")
    line("images", f"{settings.batch} of {settings.size[0]} x {settings.size[1]} x {channels}")
    line("first call", _seconds(first))
    line("latency", f"{_seconds(median)} median, {_seconds(least)} least of {settings.runs} calls")
    line("throughput", f"{settings.batch / median:.3g} images per second")
    if before and after:
        line("peak memory", f"{in_bytes(after)} of the process, {in_bytes(before)} before the call")
    if on_gpu := peak_of_gpu():
        line("on the GPU", in_bytes(on_gpu))
    if isinstance(model, FsaNet) and isinstance(model.attention_layer(), SelfAttention):
        seconds, operations = attention(model, shape, settings.runs)
        share = f"{seconds / median:.1%} of the time ({_seconds(seconds)})"
        line("attention", f"{share}, {operations / 1e6:.4g} million operations")


def timed(run: Callable[[], Any], runs: int, clock: Callable = time.perf_counter) -> tuple:
    """Seconds of the first call, and a list of the seconds of `runs` further calls."""

    def once():
        start = clock()
        run()
        return clock() - start

    return once(), [once() for _ in range(runs)]


def attention(model: FsaNet, shape: tuple, runs: int) -> tuple[float, int]:
    """Seconds and operations of a model's attention for a batch of images of this shape."""
    layer: Any = model.attention_layer()
    _, height, width, _ = model.backbone.compute_output_shape(shape)["stage5"]
    x = keras.Input((height, width, layer.query_kernel.shape[0]), dtype=layer.compute_dtype)
    features = np.random.default_rng(0).standard_normal((shape[0], *x.shape[1:]), "float32")
    if keras.backend.backend() != "openvino":  # which takes arrays only
        features = keras.ops.convert_to_tensor(features, layer.compute_dtype)
    medians = []
    for way in (layer, keras.layers.Identity(dtype=layer.dtype_policy)):
        part = keras.Model(x, way(x))
        _, times = timed(functools.partial(part.predict_on_batch, features), runs)
        medians.append(statistics.median(times))
    operations = shape[0] * attention_flops(layer, height, width)
    return max(0.0, medians[0] - medians[1]), operations


def peak_of_process() -> int | None:
    """Peak memory of this process so far, in bytes; None if that is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def peak_of_gpu() -> int | None:
    """Peak memory the engine has taken on its first GPU, in bytes; None if it runs on no GPU."""
    engine = keras.backend.backend()
    if engine == "torch":
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    if engine == "jax":
        import jax

        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]


def _open(name):
    path = model_file(Path(name))
    if path.exists():
        return load_model(path)
    try:
        return FsaNet.from_preset(name)
    except ValueError as error:
        raise ValueError(str(error).replace("`preset`", "`--model`")) from error


def _engine(model):
    if not isinstance(model, keras.Model):
        return "its own runtime"
    return f"{keras.backend.backend()}, {'CPU' if peak_of_gpu() is None else 'GPU'}"


def _seconds(value):
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
