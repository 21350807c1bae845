"""Stochastic gradient descent as the authors' framework, PyTorch, defines it."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_fsa")
class SGD(keras.optimizers.SGD):
    """SGD with momentum and an L2 term, by PyTorch's rule, on every backend.

        m <- momentum * m + gradient + l2 * w
        w <- w - learning_rate * m

    Keras differs in two points. Its `weight_decay` is decoupled, `w <- w - learning_rate * l2 * w`
    apart from the momentum, so at momentum 0.9 the same number decays ten times less. And its `m`
    holds steps, `momentum * m - learning_rate * gradient`, so a change of the learning rate reaches
    only what comes after it.

    The L2 term is in the update and not in the loss: it holds for all trainable weights (batch
    norm's and biases too, as the authors have it) of any model, under float16's loss scale as well,
    and the loss that is shown stays that of the pixels.

    Args:
        learning_rate: number or schedule.
        momentum: share of `m` that stays.
        l2: PyTorch's `weight_decay`.
        **kwargs: of `keras.optimizers.SGD`.

    Raises:
        ValueError: for a negative `l2`, or Nesterov's momentum, which has another rule.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        l2: float = 0.0,
        name: str = "sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, momentum=momentum, name=name, **kwargs)
        if not l2 >= 0:
            raise ValueError(f"`l2` must be at least 0. Received: l2={l2!r}. The usual is 1e-4.")
        if self.nesterov:
            raise ValueError(
                "`nesterov` must be False. Received: nesterov=True. Use keras.optimizers.SGD for "
                "that."
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

    Keras' `PolynomialDecay` in the argument order of papers; both families of the authors' code
    train with it.
    """
    return keras.optimizers.schedules.PolynomialDecay(start, steps, end, power=0.9)
