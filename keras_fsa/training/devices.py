"""Several devices, through Keras and the engine below it.

| backend | one command | what does it |
| --- | --- | --- |
| JAX | `python train.py --devices all` | `keras.distribution.DataParallel` |
| TensorFlow | `python train.py --devices all` | `tf.distribute.MirroredStrategy` |
| torch | `torchrun --nproc-per-node gpu train.py --devices all` | `DistributedDataParallel` |

Each device takes an equal part of the batch, which is that of all devices together; the gradient is
the mean of theirs. Where a loss averages over valid pixels, TensorFlow and torch average for each
device first, JAX over the whole batch.

**Many hosts.** The same command on each of them, with a disk they share for `--output`; process 0
writes.

- torch: `torchrun --nnodes 2 --nproc-per-node gpu --rdzv-backend c10d --rdzv-endpoint HOST:PORT
  train.py --devices all`;
- JAX: set `KERAS_DISTRIBUTION_JOB_ADDRESSES` (HOST:PORT of process 0),
  `KERAS_DISTRIBUTION_NUM_PROCESSES` and `KERAS_DISTRIBUTION_PROCESS_ID`;
- TensorFlow: Keras 3 stays on one host.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

import keras

from keras_fsa.arguments import one_of


@dataclass(frozen=True)
class Devices:
    """What a training must know of its devices.

    Attributes:
        count: number of devices, of all processes together.
        process, processes: number of this process, from 0, and how many there are.
        scope: a function that makes the context in which the model is built and trained.
    """

    count: int = 1
    process: int = 0
    processes: int = 1
    scope: Callable = contextlib.nullcontext


def find_devices(devices: str) -> Devices:
    """The devices to train on. To be called before any Keras model is made.

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
    distribution = keras.distribution.DataParallel()
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
                "torch takes one process for each device. Received: devices='all' with "
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
    """Let a compiled model train with the gradients of all devices.

    Only torch needs it: Keras has no distribution there, and its `train_step` calls the model past
    the wrapper that PyTorch's `DistributedDataParallel` puts around it.
    """
    if keras.backend.backend() != "torch" or devices.processes == 1:
        return
    import torch

    parallel = torch.nn.parallel.DistributedDataParallel(model)

    class ThroughParallel:
        """The model, for `train_step`, that is called through the wrapper."""

        # `super()` in a model's own `train_step` takes only what is of the model's class.
        __class__ = type(model)

        def __call__(self, *args, **kwargs):
            return parallel(*args, **kwargs)

        def __getattr__(self, name):
            return getattr(model, name)

    step = type(model).train_step

    def train_step(data):
        logs = step(ThroughParallel(), data)
        return {name: _mean(value, devices.processes) for name, value in logs.items()}

    model.train_step = train_step


def _mean(value, processes):
    import torch

    value = torch.as_tensor(value).detach().clone()
    torch.distributed.all_reduce(value)
    return value / processes


def part_of_batches(devices: Devices) -> tuple[int, int]:
    """Which part of each batch this process reads: its number, and how many parts there are.

    All of it but under torch: TensorFlow and Keras on JAX take their parts themselves.
    """
    if keras.backend.backend() != "torch":
        return 0, 1
    return devices.process, devices.processes


def add_up(variable: keras.Variable, devices: Devices) -> None:
    """Make a variable of a metric the sum over all processes, where its engine does not."""
    if keras.backend.backend() == "torch" and devices.processes > 1:
        import torch

        torch.distributed.all_reduce(variable.value)
