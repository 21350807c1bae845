"""Several devices, through Keras and the engine below it.

| backend | one command | mechanism |
| --- | --- | --- |
| JAX | `python train.py --devices all` | `keras.distribution.DataParallel` |
| TensorFlow | `python train.py --devices all` | `tf.distribute.MirroredStrategy` |
| torch | `torchrun --nproc-per-node gpu train.py --devices all` | `torch.distributed.all_reduce` |

The batch is that of all devices together. Each takes an equal part of it, and the gradient is the
mean of theirs. Where a loss averages over valid pixels, TensorFlow and torch average on each device
first, JAX over the whole batch.

Under torch each process trains its own copy of the model. `join_gradients` averages each weight's
gradient over the processes as soon as backpropagation has accumulated it, in a hook that PyTorch
provides for that, so the optimizers see equal gradients and the copies stay equal. Moving
statistics of batch norm, which each process takes of its own part, are averaged after each epoch.
(`DistributedDataParallel` does the same around a module's `forward`, past which Keras' `train_step`
calls the model.)

**Several hosts.** Run the same command on each of them, with a shared disk for `--output`; process
0 writes.

- torch: `torchrun --nnodes 2 --nproc-per-node gpu --rdzv-backend c10d --rdzv-endpoint HOST:PORT
  train.py --devices all`;
- JAX: set `KERAS_DISTRIBUTION_JOB_ADDRESSES` (HOST:PORT of process 0),
  `KERAS_DISTRIBUTION_NUM_PROCESSES` and `KERAS_DISTRIBUTION_PROCESS_ID`;
- TensorFlow: Keras 3 is limited to one host.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_fsa.arguments import one_of


@dataclass(frozen=True)
class Devices:
    """What a training needs to know of its devices.

    Attributes:
        count: number of devices, of all processes together.
        process, processes: index of this process, from 0, and the number of processes.
        scope: a function that makes the context in which the model is built and trained.
    """

    count: int = 1
    process: int = 0
    processes: int = 1
    scope: Callable = contextlib.nullcontext

    @property
    def part(self) -> tuple[int, int]:
        """Which part of each batch this process reads: `(i, n)` for the i-th of n equal parts."""
        return self.process, self.processes

    def share(self, batch: int) -> int:
        """How many images of a batch each device takes.

        Raises:
            ValueError: for a batch that does not divide among the devices.
        """
        if batch % self.count:
            raise ValueError(
                "`batch` must be a multiple of the number of devices. Received: "
                f"batch={batch} on {self.count} devices. Change one of them."
            )
        return batch // self.count


def find_devices(devices: str) -> Devices:
    """The devices to train on. Call it before any Keras model is created.

    Args:
        devices: `"one"` or `"all"`.

    Raises:
        ValueError: for anything else, or `"all"` under torch with several GPUs and no torchrun.
    """
    one_of("devices", devices, ("one", "all"))
    if devices == "one":
        return Devices()
    return {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[keras.backend.backend()]()


def _jax():
    import jax

    if "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
        keras.distribution.initialize()
    if jax.device_count() == 1:
        return Devices()
    # Each process reads its part of a batch itself, from data of any kind.
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    return Devices(jax.device_count(), jax.process_index(), jax.process_count(), distribution.scope)


def _tensorflow():
    import tensorflow as tf

    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(found) == 1:
        return Devices()
    strategy = tf.distribute.MirroredStrategy([device.name for device in found])
    return Devices(len(found), scope=strategy.scope)


def _torch():
    import torch

    gpus = torch.cuda.device_count()
    if "RANK" not in os.environ:
        if gpus > 1:
            raise ValueError(
                "torch needs one process for each device. Received: devices='all' with "
                f"{gpus} GPUs and one process. Run: torchrun --nproc-per-node gpu SCRIPT "
                "--devices all"
            )
        return Devices()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if gpus else "gloo")
    count = torch.distributed.get_world_size()
    return Devices(count, torch.distributed.get_rank(), count)


def join_gradients(model: keras.Model, devices: Devices) -> None:
    """Let torch's processes train one model: equal weights to start with, averaged gradients.

    The other backends do so themselves. Call it once, after the model is built and its weights are
    loaded or restored. Every process must run the same steps.

    Args:
        model: any built Keras model; layers that are frozen now must stay frozen.
        devices: those that the model trains on.
    """
    if not _joins(devices):
        return
    import torch

    def average(weight):
        torch.distributed.all_reduce(weight.grad)
        weight.grad /= devices.processes

    with torch.no_grad():
        for variable in model.weights:
            torch.distributed.broadcast(variable.value, src=0)
    for variable in model.trainable_variables:
        variable.value.register_post_accumulate_grad_hook(average)


def join_statistics(model: keras.Model, devices: Devices) -> None:
    """Give torch's processes the mean of what they keep beside trained weights, in floats.

    That is the moving statistics of batch norm, which each takes of its own part of the batches.
    """
    if not _joins(devices):
        return
    import torch

    with torch.no_grad():
        for variable in model.non_trainable_variables:
            if keras.backend.is_float_dtype(variable.dtype):
                torch.distributed.all_reduce(variable.value)
                variable.value.div_(devices.processes)


def join_metrics(model: keras.Model, devices: Devices) -> dict[str, float]:
    """The results of a model's metrics, loss included, over the examples of all processes.

    Keras' metrics add up, so under torch their variables are summed over the processes. The other
    backends do so themselves.

    Args:
        model: a compiled model. Under several processes its metrics are left with the sums: reset
            them, as each epoch and each `evaluate` does.
        devices: those that the model trains on.
    """
    if _joins(devices):
        import torch

        for variable in model.metrics_variables:
            torch.distributed.all_reduce(variable.value)
    return {name: float(value) for name, value in model.get_metrics_result().items()}


def mean_of_processes(value: float, devices: Devices) -> float:
    """A number's mean over torch's processes; elsewhere the number itself, which all share."""
    if not _joins(devices):
        return value
    total: Any = keras.ops.convert_to_tensor(value, "float32")
    import torch

    torch.distributed.all_reduce(total)
    return float(total) / devices.processes


def _joins(devices):
    return keras.backend.backend() == "torch" and devices.processes > 1


def keep_tensorflow_off_gpus() -> None:
    """Where TensorFlow only reads the data, it would still take all of a GPU's memory."""
    if keras.backend.backend() != "tensorflow" and "tensorflow" in sys.modules:
        sys.modules["tensorflow"].config.set_visible_devices([], "GPU")
