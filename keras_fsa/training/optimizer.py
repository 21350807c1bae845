"""Stochastic gradient descent as PyTorch, the authors' framework, defines it."""

import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa.arguments import integer, number


@keras.saving.register_keras_serializable(package="keras_fsa")
class SGD(keras.optimizers.SGD):
    """SGD with momentum and an L2 term, by PyTorch's rule, on every backend.

        m <- momentum * m + gradient + l2 * w
        w <- w - learning_rate * m

    Keras differs in two ways. Its `weight_decay` is decoupled, `w <- w - learning_rate * l2 * w`
    outside the momentum, so at momentum 0.9 the same number decays ten times less. And its `m`
    accumulates steps, `momentum * m - learning_rate * gradient`, so a change of the learning rate
    affects later gradients only.

    The L2 term is part of the update, not of the loss. It therefore applies to all trainable
    weights of any model (batch norm's and biases too, as in the authors' code), also under the loss
    scale of float16, and the reported loss is that of the pixels alone.

    Args:
        learning_rate: a finite number of at least 0, or a schedule.
        momentum: fraction of `m` that is kept, 0 to 1.
        l2: PyTorch's `weight_decay`, a finite number of at least 0.
        **kwargs: of `keras.optimizers.SGD`.

    Raises:
        ValueError: if an argument is out of its range, and for Nesterov momentum, which follows
            another rule.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        l2: float = 0.0,
        name: str = "sgd",
        **kwargs: Any,
    ) -> None:
        if isinstance(learning_rate, (numbers.Real, np.number, str)) or learning_rate is None:
            number("learning_rate", learning_rate, minimum=0)
        number("momentum", momentum, minimum=0, maximum=1)
        number("l2", l2, minimum=0)
        super().__init__(learning_rate, momentum=momentum, name=name, **kwargs)
        if self.nesterov:
            raise ValueError(
                "`nesterov` must be False. Received: nesterov=True. Use keras.optimizers.SGD for "
                "Nesterov momentum."
            )
        self.l2 = l2

    def update_step(self, gradient, variable, learning_rate):
        dtype = variable.dtype
        step = ops.cast(gradient, dtype) + ops.cast(self.l2, dtype) * variable
        if self.momentum:
            m = self.momentums[self._get_variable_index(variable)]
            step = step + ops.cast(self.momentum, dtype) * m
            self.assign(m, step)
        self.assign_sub(variable, ops.cast(learning_rate, dtype) * step)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


def poly_decay(
    start: float, end: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate `(start - end) * (1 - step / steps) ** 0.9 + end`.

    Keras' `PolynomialDecay` with the arguments in the order that papers use. Both families of the
    authors' experiments train with it.

    Args:
        start, end: learning rates, finite numbers of at least 0.
        steps: number of steps from one to the other.

    Raises:
        ValueError: if an argument is out of its range.
    """
    number("start", start, minimum=0)
    number("end", end, minimum=0)
    integer("steps", steps)
    return keras.optimizers.schedules.PolynomialDecay(start, steps, end, power=0.9)


def cosine_decay(
    start: float, end: float, steps: int, warmup_steps: int = 0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that rises linearly from zero to `start`, then falls by a cosine to `end`.

    Keras' `CosineDecay` with the arguments of `poly_decay`: `steps` counts the warm-up, too.

    Args:
        start, end: learning rates, finite numbers of at least 0; `start` above 0.
        steps: number of all steps.
        warmup_steps: number of those in which the rate rises.

    Raises:
        ValueError: if an argument is out of its range.
    """
    number("start", start, above=0)
    number("end", end, minimum=0)
    integer("steps", steps)
    integer("warmup_steps", warmup_steps, 0, maximum=steps - 1)
    warmup = {"warmup_target": start, "warmup_steps": warmup_steps} if warmup_steps else {}
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else start, steps - warmup_steps, alpha=end / start, **warmup
    )
