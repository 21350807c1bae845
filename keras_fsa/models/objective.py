"""The training objective: one loss, applied to the logits and to the auxiliary head's logits."""

from typing import Any

import keras
from keras import ops

from keras_fsa.losses import CrossEntropy
from keras_fsa.types import Tensor


def only_loss(loss: Any, activation: str) -> Any:
    """The only loss in an argument of `compile`, as an object, a function or a name.

    Raises:
        ValueError: for several losses, anything that is not a loss, and a loss of this library
            whose activation differs from the model's.
    """
    found = keras.tree.flatten(loss)
    try:
        [only] = found
        keras.losses.get(only)
    except ValueError as error:
        raise ValueError(
            "`loss` must be one loss of masks and logits: a `keras.losses.Loss`, a function, or "
            f"the name of one in `keras.losses`. Received: loss={loss!r}. Leave it out for "
            "cross-entropy; to add several, pass keras_fsa.losses.SumOfLosses([...])."
        ) from error
    _check_activation(only, activation)
    return only


def _check_activation(loss, activation):
    for part in getattr(loss, "losses", ()):
        _check_activation(part, activation)
    found = getattr(loss, "activation", activation)
    if isinstance(loss, CrossEntropy) and found != activation:
        raise ValueError(
            "`loss` must be of the model's activation. Received: "
            f"{type(loss).__name__}(activation={found!r}) for a model with activation="
            f"{activation!r}. Pass activation={activation!r} to the loss."
        )


def as_loss(loss: Any) -> keras.losses.Loss:
    """A result of `only_loss` as an object that takes sample weights."""
    function = keras.losses.get(loss)
    return function if isinstance(function, keras.losses.Loss) else _FunctionLoss(function)


def loss_weight(loss_weights: Any) -> float:
    """The weight of the only loss in the `loss_weights` of `compile`."""
    weights = [] if loss_weights is None else keras.tree.flatten(loss_weights)
    return weights[0] if weights else 1.0


def with_auxiliary(loss: Tensor, auxiliary: Tensor, weight: float) -> Tensor:
    """The loss for training with an auxiliary head."""
    # Keras' loss has the default dtype, ours is float32.
    return loss + weight * ops.cast(auxiliary, loss.dtype)


class _FunctionLoss(keras.losses.Loss):
    """A plain loss function, with the reduction and the sample weights of Keras' losses."""

    def __init__(self, function):
        super().__init__(name="auxiliary_loss")
        self.function = function

    def call(self, y_true, y_pred):
        # As Keras does for the loss itself. Of another rank they would broadcast.
        true, predicted = (len(y.shape) for y in (y_true, y_pred))
        if true == predicted + 1 and y_true.shape[-1] == 1:
            y_true = ops.squeeze(y_true, -1)
        elif predicted == true + 1 and y_pred.shape[-1] == 1:
            y_pred = ops.squeeze(y_pred, -1)
        return self.function(y_true, y_pred)
