"""Whether XLA compiles what is being traced: some sums are then better written differently.

JAX always compiles with XLA and PyTorch never does. TensorFlow may or may not, and does not tell a
layer, so somebody has to: the user by `xla_scope`, or a model's class by `announces_xla`.
"""

import contextlib
import contextvars
import functools
import warnings
from collections.abc import Iterator
from typing import TypeVar

import keras

Model = TypeVar("Model", bound=type[keras.Model])

_in_xla_scope = contextvars.ContextVar("in_xla_scope", default=False)


@contextlib.contextmanager
def xla_scope() -> Iterator[None]:
    """Tell this library's layers that XLA compiles what TensorFlow traces in this block.

        model.compile("sgd", "mse", jit_compile=True)
        with keras_fsa.xla_scope():
            model.fit(x, y)

    XLA then sums up the frequencies of an update while adding it to the feature map, in a single
    pass that takes less time and memory. Without XLA the same sum would take several times as much
    of both. Results are equal up to rounding.

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


def warn_of_slow_xla(model: keras.Model) -> None:
    """Warn where TensorFlow compiles depthwise convolutions with XLA for a CPU."""
    if keras.backend.backend() != "tensorflow" or not model.jit_compile:
        return
    # Keras makes public only the layers of models, not those in layers.
    kinds = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    slow = next((layer for layer in model._flatten_layers() if isinstance(layer, kinds)), None)
    if slow is not None and not keras.distribution.list_devices("gpu"):
        warnings.warn(
            "On a CPU, XLA takes a multiple of TensorFlow's own time for depthwise convolutions: "
            "12 times for a training step of EfficientNet-Lite0. Received: jit_compile=True with "
            f"the layer {slow.name!r}. Leave `jit_compile` out.",
            stacklevel=3,
        )


def announces_xla(model: Model) -> Model:
    """Class decorator: a model's steps run in `xla_scope` where Keras compiles them with XLA."""

    def scoped(step):
        @functools.wraps(step)
        def run(self, *args, **kwargs):
            xla = keras.backend.backend() == "tensorflow" and self.jit_compile
            with xla_scope() if xla else contextlib.nullcontext():
                return step(self, *args, **kwargs)

        return run

    for name in ("train_step", "test_step", "predict_step"):
        setattr(model, name, scoped(getattr(model, name)))
    return model
