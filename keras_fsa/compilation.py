"""Whether XLA compiles what is being traced: some sums are then better written differently.

JAX always compiles with XLA and PyTorch never does. TensorFlow may or may not, and a layer cannot
find out, so it must be told: by the user with `xla_scope`, or by a model's class with
`announces_xla`. And only one thread at a time may run compiled code: `model_in_use`.
"""

import contextlib
import contextvars
import functools
import threading
import warnings
from collections.abc import Iterator
from typing import TypeVar

import keras

Model = TypeVar("Model", bound=type[keras.Model])

_DEPTHWISE = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)

model_in_use = threading.Lock()
"""Held while Keras predicts. Under JAX, predicting changes the model, so threads would corrupt each
other's calls, even those of models that share layers."""

_in_xla_scope = contextvars.ContextVar("in_xla_scope", default=False)


@contextlib.contextmanager
def xla_scope() -> Iterator[None]:
    """Tell this library's layers that XLA compiles what TensorFlow traces in this block.

        model.compile("sgd", "mse", jit_compile=True)
        with keras_fsa.xla_scope():
            model.fit(x, y)

    XLA then sums the frequencies of an update while adding it to the feature map, in a single pass
    that takes less time and memory. Without XLA the same sum would take several times as much of
    both. Results are equal up to rounding.

    `FsaNet` does not need the scope: Keras tells a model whether XLA compiles its steps. Under JAX
    and PyTorch the scope has no effect.
    """
    token = _in_xla_scope.set(True)
    try:
        yield
    finally:
        _in_xla_scope.reset(token)


def xla_compiles() -> bool:
    """Whether XLA compiles what is being traced, as far as a layer can know."""
    return {"jax": True, "tensorflow": _in_xla_scope.get()}.get(keras.backend.backend(), False)


def announces_xla(model: Model) -> Model:
    """Class decorator: a model's steps run in `xla_scope` if Keras compiles them with XLA."""

    def scoped(step):
        @functools.wraps(step)
        def run(self, *args, **kwargs):
            xla = keras.backend.backend() == "tensorflow" and self.jit_compile
            with xla_scope() if xla else contextlib.nullcontext():
                return step(self, *args, **kwargs)

        return run

    # Keras' NumPy engine, which only predicts, has no steps.
    for name in ("train_step", "test_step", "predict_step"):
        if hasattr(model, name):
            setattr(model, name, scoped(getattr(model, name)))
    return model


def warn_of_slow_xla(model: keras.Model) -> None:
    """Warn if XLA, requested under TensorFlow on a CPU, would slow a model down.

    Depthwise convolutions are slower with it: an EfficientNet-Lite0 at 240 x 320 took 20.8 instead
    of 1.7 seconds a step, batch 8, one core.

    Warns:
        UserWarning: if the model would be slower.
    """
    if keras.backend.backend() != "tensorflow" or not model.jit_compile:
        return
    slow = (layer for layer in model._flatten_layers() if isinstance(layer, _DEPTHWISE))
    layer = next(slow, None)
    if layer is not None and not keras.distribution.list_devices("gpu"):
        warnings.warn(
            "On a CPU, XLA is many times slower with depthwise convolutions. Received: "
            f"jit_compile=True for a model with the layer {layer.name!r}. Leave "
            "`jit_compile` out: on a CPU it does not pay for other networks, either.",
            stacklevel=3,
        )
