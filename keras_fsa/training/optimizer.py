"""Optimizers: SGD as PyTorch, the authors' framework, defines it, and rates of single weights."""

import numbers
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa.arguments import integer, number


class _Rates(keras.optimizers.Optimizer):
    """A factor of the learning rate for some variables, beside any optimizer of Keras.

    Keras has one learning rate for each optimizer, and its `MultiOptimizer` of several hides them
    from schedules and logs. Factors are few and constant, so they are applied where a variable is
    updated: `update_step(gradient, variable, factor * learning_rate)`.
    """

    def _check_rates(self, rates):
        self.rates = dict(rates or {})
        for path, rate in self.rates.items():
            number(f"rates[{path!r}]", rate, minimum=0)
        self._factors = []

    def build(self, variables):
        self._factors = [self.rates.get(variable.path, 1.0) for variable in variables]
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        factor = self._factors[self._get_variable_index(variable)]
        if factor != 1:
            learning_rate = learning_rate * factor
        self._update(gradient, variable, learning_rate)

    def get_config(self):
        return {**super().get_config(), **({"rates": self.rates} if self.rates else {})}


def backbone_rates(model: keras.Model, rate: float) -> dict[str, float]:
    """`rates` that give the backbone of an `FsaNet` another learning rate than the rest.

    Args:
        model: an `FsaNet`.
        rate: factor of the learning rate; 0.1 is usual for a backbone that was trained before.

    Raises:
        ValueError: if a variable elsewhere has the path of one in the backbone.
    """
    number("rate", rate, minimum=0)
    own = {id(variable) for variable in model.backbone.trainable_variables}
    paths = {variable.path for variable in model.backbone.trainable_variables}
    others = {v.path for v in model.trainable_variables if id(v) not in own}
    if same := sorted(paths & others):
        raise ValueError(
            "Variables of the backbone must have paths of their own. Received: "
            f"{same[0]}, which is in the head, too. Rename that layer of the backbone."
        )
    return dict.fromkeys(sorted(paths), float(rate))


@keras.saving.register_keras_serializable(package="keras_fsa")
class SGD(_Rates, keras.optimizers.SGD):
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
        rates: from the paths of variables to factors of their learning rate, see `backbone_rates`.
            Default: none.
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
        rates: dict[str, float] | None = None,
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
        self._check_rates(rates)

    def _update(self, gradient, variable, learning_rate):
        dtype = variable.dtype
        step = ops.cast(gradient, dtype) + ops.cast(self.l2, dtype) * variable
        if self.momentum:
            m = self.momentums[self._get_variable_index(variable)]
            step = step + ops.cast(self.momentum, dtype) * m
            self.assign(m, step)
        self.assign_sub(variable, ops.cast(learning_rate, dtype) * step)

    def get_config(self):
        return {**super().get_config(), "l2": self.l2}


@keras.saving.register_keras_serializable(package="keras_fsa")
class AdamW(_Rates, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` with `rates`.

    Args:
        learning_rate, weight_decay: of `keras.optimizers.AdamW`. The decay is decoupled and keeps
            the whole learning rate, whatever the factor of a variable.
        rates: as for `SGD`.
        **kwargs: of `keras.optimizers.AdamW`.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        learning_rate: Any = 3e-4,
        weight_decay: float = 0.004,
        name: str = "adamw",
        rates: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        number("weight_decay", weight_decay, minimum=0)
        super().__init__(learning_rate, weight_decay=weight_decay, name=name, **kwargs)
        self._check_rates(rates)

    def _update(self, gradient, variable, learning_rate):
        keras.optimizers.AdamW.update_step(self, gradient, variable, learning_rate)


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
        start, end: learning rates, finite numbers of at least 0; `start` above 0, `end` not above
            `start`.
        steps: number of all steps.
        warmup_steps: number of those in which the rate rises.

    Raises:
        ValueError: if an argument is out of its range.
    """
    number("start", start, above=0)
    number("end", end, minimum=0, maximum=start)
    integer("steps", steps)
    integer("warmup_steps", warmup_steps, 0, maximum=steps - 1)
    warmup = {"warmup_target": start, "warmup_steps": warmup_steps} if warmup_steps else {}
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else start, steps - warmup_steps, alpha=end / start, **warmup
    )
