"""Time, operations and memory of one call, on the backend that runs.

A *call* is one layer on one map, compiled as users compile: it has `run()`, which comes back when
the device has finished; `counted_flops()`, the backend's own count of a forward pass, or None where
it has no counter; and `peak_memory()`, the bytes that a call takes beyond its input and the
weights, output included, or None where only `benchmarks.resident` can tell. In training a
call is the forward pass and the gradients with respect to map and weights; the map itself serves as
the gradient of the output.

| backend    | compiled by         | operations            | memory on a CPU, on a GPU             |
| ---------- | ------------------- | --------------------- | ------------------------------------- |
| TensorFlow | XLA                 | not counted           | resident pages of a child, allocator  |
| JAX        | XLA                 | XLA, before compiling | resident pages of a child, compiler   |
| PyTorch    | nothing or Inductor | FlopCounterMode       | profile of allocations, allocator     |
"""

import contextlib
import gc
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_fsa.compilation import xla_scope
from keras_fsa.types import DType, Tensor

BACKEND = keras.backend.backend()


class JaxCall:
    """A layer on a map, compiled by JAX."""

    flops_source = "XLA, before compiling"

    def __init__(
        self, layer: keras.Layer, x: Tensor, training: bool = False, mode: str = "jit"
    ) -> None:
        import jax

        def forward(trainable, x):
            return layer.stateless_call(trainable, non_trainable, x)[0]

        def step(trainable, x):
            y, pull_back = jax.vjp(forward, trainable, x)
            weights, map_ = pull_back(x if y.ndim else jax.numpy.ones_like(y))
            return y, [map_, *weights]

        trainable = [weight.value for weight in layer.trainable_variables]
        non_trainable = [weight.value for weight in layer.non_trainable_variables]
        self._jax, self._arguments = jax, (trainable, x)
        self._on_cpu = jax.devices()[0].platform == "cpu"
        self.memory_source = "resident pages of a child"
        if not self._on_cpu:
            self.memory_source = "compiler's temporary and output buffers"
        self._forward = jax.jit(forward)
        lowered = jax.jit(step if training else forward).lower(*self._arguments)
        self._compiled = lowered.compile()

    def run(self) -> Any:
        return self._jax.block_until_ready(self._compiled(*self._arguments))

    def counted_flops(self) -> float:
        costs = self._forward.lower(*self._arguments).cost_analysis()
        assert costs is not None
        return costs["flops"]

    def peak_memory(self) -> int | None:
        if self._on_cpu:
            # The plan does not know what XLA's library of fused products takes for itself: for
            # regular attention at 97 x 97 x 512 it says 21 MiB, but 400 MiB are touched.
            return None
        plan = self._compiled.memory_analysis()
        assert plan is not None
        return plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes


class TorchCall:
    """A layer on a map under torch, eager or compiled."""

    flops_source = "torch.utils.flop_counter"

    def __init__(
        self, layer: keras.Layer, x: Tensor, training: bool = False, mode: str = "eager"
    ) -> None:
        import torch

        def step(x):
            if not training:
                return layer(x)
            y = layer(x)
            weights = [weight.value for weight in layer.trainable_variables]
            gradient = x.detach() if y.ndim else torch.ones_like(y)
            return y, torch.autograd.grad(y, [x, *weights], gradient, allow_unused=True)

        self._torch, self._layer = torch, layer
        self._x = x.detach().requires_grad_(training)
        self._training = training
        self._on_gpu = x.device.type == "cuda"
        self.memory_source = "allocator's peak" if self._on_gpu else "profile of allocations"
        self._step = torch.compile(step) if mode == "compiled" else step

    def run(self) -> Any:
        with self._torch.set_grad_enabled(self._training):
            result = self._step(self._x)
        if self._on_gpu:
            self._torch.cuda.synchronize()
        return result

    def counted_flops(self) -> float:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        # The fused attention of the CPU is not in torch's list of counted operations.
        math = sdpa_kernel(SDPBackend.MATH)
        with self._torch.no_grad(), math, FlopCounterMode(display=False) as counter:
            self._layer(self._x)
        return counter.get_total_flops()

    def peak_memory(self) -> int | None:
        torch = self._torch
        self.run()
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.run()
            return torch.cuda.max_memory_allocated() - before
        activities = [torch.profiler.ProfilerActivity.CPU]
        # What an earlier profile left, collected within this one, would count as released here.
        gc.collect()
        with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
            result = self.run()
        # The profiler closes before the result goes, so that no release of it is counted.
        del result
        events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        return int(max(np.cumsum([0] + [event.nbytes() for event in events])))


class TensorFlowCall:
    """A layer on a map, compiled by TensorFlow's XLA or run as a graph."""

    flops_source = None

    def __init__(
        self, layer: keras.Layer, x: Tensor, training: bool = False, mode: str = "jit"
    ) -> None:
        import tensorflow as tf

        def step(x):
            if not training:
                return layer(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x)
            weights = [weight.value for weight in layer.trainable_variables]
            return y, tape.gradient(y, [x, *weights], x if y.shape.rank else tf.ones_like(y))

        def traced(x):
            with contextlib.nullcontext() if mode == "graph" else xla_scope():
                return step(x)

        self._tf, self._x = tf, x
        signature = None
        if mode == "unknown sizes":
            signature = [tf.TensorSpec((x.shape[0], None, None, x.shape[-1]), x.dtype)]
        self._step = tf.function(
            traced, jit_compile=mode != "graph", autograph=False, input_signature=signature
        )
        self._on_gpu = bool(tf.config.list_physical_devices("GPU"))
        self.memory_source = "allocator's peak" if self._on_gpu else "resident pages of a child"

    def run(self, x: Tensor = None) -> Any:
        result = self._step(self._x if x is None else x)
        self._tf.test.experimental.sync_devices()
        return result

    def traces(self) -> int:
        return self._step.experimental_get_tracing_count()

    def counted_flops(self) -> float | None:
        return None

    def peak_memory(self) -> int | None:
        if not self._on_gpu:
            return None
        memory = self._tf.config.experimental
        self.run()
        memory.reset_memory_stats("GPU:0")
        before = memory.get_memory_info("GPU:0")["current"]
        self.run()
        return memory.get_memory_info("GPU:0")["peak"] - before


CALLS: dict[str, Any] = {"jax": JaxCall, "torch": TorchCall, "tensorflow": TensorFlowCall}
Call = CALLS[BACKEND]


def modes(compiled: bool) -> list[str]:
    """How calls are run: always compiled under JAX, one after the other under torch."""
    if BACKEND == "jax":
        return ["jit"]
    if BACKEND == "tensorflow":
        return ["jit" if compiled else "graph"]
    return ["eager", "compiled"] if compiled else ["eager"]


def make_map(shape: tuple, dtype: DType) -> Tensor:
    """A random map of the dtype in which a layer of this policy computes."""
    x = np.random.default_rng(2).standard_normal(shape, "float32")
    return keras.ops.convert_to_tensor(x, keras.DTypePolicy(dtype).compute_dtype)


def retraces(layer: keras.Layer, maps: list) -> int | None:
    """How often a graph is built anew for maps whose sizes were all seen before.

    Under torch, sizes are always those of the map at hand and eager calls build no graph: None.
    """
    if BACKEND == "torch":
        return None
    if BACKEND == "tensorflow":
        call = TensorFlowCall(layer, maps[0], mode="unknown sizes")
        run, traces = call.run, call.traces
    else:
        import jax

        seen = []

        @jax.jit
        def run(x):
            seen.append(x.shape)
            return layer(x)

        def traces():
            return len(seen)

    for x in maps:
        run(x)
    before = traces()
    for x in maps:
        run(x)
    return traces() - before


def time_round_robin(
    runs: dict[Any, Callable], rounds: int, seconds: float, clock: Callable = time.perf_counter
) -> dict[Any, tuple]:
    """Times of several functions, taken in turns so that drift of the machine hits all.

    Each function is called once to warm up and once to learn how long it takes. Slow ones then
    take part in fewer rounds, spread evenly over all.

    Args:
        runs: dict of functions without arguments.
        rounds: of the fast ones.
        seconds: for all of them together; but each is timed at least three times.
        clock: in seconds. `time.process_time` on a busy machine, with one thread.

    Returns:
        Dict of `(median, least, number of timed calls)`, in seconds.
    """

    def timed(run):
        start = clock()
        run()
        return clock() - start

    share = seconds / max(1, len(runs))
    times: dict[str, list] = {}
    parts = {}
    for name, run in runs.items():
        run()
        parts[name] = min(rounds, max(3, int(share / max(timed(run), 1e-9))))
        times[name] = []
    for i in range(rounds):
        for name, run in runs.items():
            if (i + 1) * parts[name] // rounds > i * parts[name] // rounds:
                times[name].append(timed(run))
    return {
        name: (float(np.median(times[name])), min(times[name]), len(times[name])) for name in runs
    }


def least_times(run: Callable, rounds: int) -> tuple[float, float]:
    """Seconds of the fastest of some calls: by the clock, and of the processor."""
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def device() -> tuple[str, str]:
    """`("cpu" or "gpu", name)` of the device that runs."""
    if BACKEND == "jax":
        import jax

        first = jax.devices()[0]
        if first.platform != "cpu":
            return "gpu", first.device_kind
    elif BACKEND == "torch":
        import torch

        if torch.cuda.is_available():
            return "gpu", torch.cuda.get_device_name()
    else:
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if gpus:
            details = tf.config.experimental.get_device_details(gpus[0])
            return "gpu", details.get("device_name", "GPU")
    return "cpu", _cpu_name()


def _cpu_name():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def threads() -> dict[str, Any]:
    """The CPUs that this process may use, and what the environment says of threads and kernels."""
    names = (
        "OMP_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
        "TF_NUM_INTEROP_THREADS",
        "TF_ENABLE_ONEDNN_OPTS",
        "XLA_FLAGS",
    )
    found = {name: os.environ[name].strip() for name in names if os.environ.get(name)}
    count = getattr(os, "process_cpu_count", os.cpu_count)()
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    return {"cpus": count, **found}
