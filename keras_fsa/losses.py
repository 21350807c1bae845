"""Losses for masks and logits, with an ignore label and class weights.

Cross entropy of all pixels or the hard ones, focal loss, the overlap losses (Dice, Tversky, focal
Tversky, Lovasz-softmax), the boundary loss, and weighted sums of them. The first three are means
over *selected* pixels; ignored ones never are:

    loss = sum(weight[class] * cross_entropy, selected) / sum(weight[class], selected)

and 0 if no pixel is selected. (PyTorch's `CrossEntropyLoss` averages in the same way.)

A pixel whose id is neither a class nor the ignore label makes the loss NaN, on every backend, so
wrong masks are never trained on unnoticed. The gradient remains that of the other pixels: a
training that stops at a NaN loss keeps finite weights. `keras_fsa.metrics.confusion_matrix` names
such ids.

All accept `activation="sigmoid"` for masks with a yes or no for each class (`keras_fsa.classes`). A
"pixel" in the formulas is then the question whether a pixel has one class, and the cross entropy is
that between yes and no; class weights apply to all questions about a class.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa.arguments import integer, number, one_of, positive_int
from keras_fsa.classes import ACTIVATIONS
from keras_fsa.metrics import IGNORE_LABEL, check_ids, is_class, weight_of_pixels

__all__ = [
    "BoundaryLoss",
    "CrossEntropy",
    "FocalLoss",
    "LovaszSoftmax",
    "OhemCrossEntropy",
    "SumOfLosses",
    "TverskyLoss",
]


@keras.saving.register_keras_serializable(package="keras_fsa")
class CrossEntropy(keras.losses.Loss):
    """Cross entropy of masks and logits over all valid pixels, with a weight for each class.

    Args:
        class_weights: a positive number for each class, or None for equal weights.
        ignore_label: the label of pixels that do not count, or None.
        reduction, name, dtype: of `keras.losses.Loss`. The default reduction gives the formula of
            this file; sample weights, `(B, H, W)` or `(B,)`, then multiply the pixels' terms, as
            they do in Keras. With `reduction=None` the result is a map `(B, H, W)` whose mean is
            that formula.
        ignore_class: Keras' name for `ignore_label`, accepted in its place.
        activation: `"softmax"` or `"sigmoid"`, the same as the model's: what the logits mean.

    Call arguments:
        y_true: masks `(B, H, W)` or `(B, H, W, 1)`, class ids of any dtype; for the sigmoid `(B, H,
            W, classes)` of 0 and 1, or `(B, H, W)` for one class.
        y_pred: logits `(B, H, W, classes)`. The loss computes in its own dtype, whatever theirs.

    Raises:
        ValueError: for class weights that are not positive numbers, or not one for each class of
            the logits; for an ignore label that is not an int; for masks whose size differs from
            that of the logits.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        ignore_label: int | None = IGNORE_LABEL,
        reduction: str | None = "sum_over_batch_size",
        name: str = "cross_entropy",
        dtype: str = "float32",
        ignore_class: int | None = IGNORE_LABEL,
        activation: str = "softmax",
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        one_of("activation", activation, ACTIVATIONS)
        for argument, label in (("ignore_label", ignore_label), ("ignore_class", ignore_class)):
            integer(argument, label, -(2**31), optional=True)
        if ignore_class != IGNORE_LABEL:
            ignore_label = ignore_class
        self.class_weights = _checked_weights(class_weights)
        self.ignore_label = ignore_label
        self.activation = activation

    def __call__(self, y_true, y_pred, sample_weight=None):
        return super().__call__(y_true, y_pred, _weight_of_pixels(sample_weight, y_pred))

    def call(self, y_true, y_pred):
        labels, valid, wrong = self._labels(y_true, y_pred)
        each = self.activation == "sigmoid"
        if each:
            # Of the answer's own sign, so that a small loss is no difference of large numbers.
            loss = ops.softplus((1 - 2 * ops.cast(labels, y_pred.dtype)) * y_pred)
        else:
            loss = ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
        weight = ops.cast(self._selected(loss, valid), loss.dtype)
        if self.class_weights is not None:
            weights = self._weights_of(y_pred.shape[-1], loss.dtype)
            weight = weight * (weights if each else ops.take(weights, labels, axis=0))
        # A map whose mean is the weighted mean: Keras then reduces it, with sample weights and with
        # the share of this replica where there are several.
        count = ops.cast(ops.size(loss), loss.dtype)
        loss = self._terms(loss) * weight * ops.divide_no_nan(count, ops.sum(weight))
        loss = ops.where(wrong, float("nan"), loss)
        return ops.mean(loss, axis=-1) if each else loss

    def _labels(self, y_true, y_pred):
        """Ids as int32, 0 if they are no class; which pixels are valid, and which are wrong."""
        if self.activation == "sigmoid":
            return self._answers(y_true, y_pred)
        if len(y_true.shape) == len(y_pred.shape):
            check_ids(y_true, y_pred)
            y_true = ops.squeeze(y_true, axis=-1)
        sizes = zip(y_true.shape, y_pred.shape[:-1], strict=False)
        if len(y_true.shape) != len(y_pred.shape) - 1 or any(
            a is not None and b is not None and a != b for a, b in sizes
        ):
            raise ValueError(
                "Masks must have the size of the logits. Received: masks of shape "
                f"{tuple(y_true.shape)} for logits of shape {tuple(y_pred.shape)}. Resize the "
                "masks, without interpolation, to the size of the images."
            )
        return self._valid(y_true, y_pred.shape[-1])

    def _answers(self, y_true, y_pred):
        """The same for the sigmoid, for each class."""
        classes = y_pred.shape[-1]
        if len(y_true.shape) == len(y_pred.shape) - 1 and classes == 1:
            y_true = ops.expand_dims(y_true, -1)
        sizes = zip(y_true.shape, y_pred.shape, strict=False)
        if len(y_true.shape) != len(y_pred.shape) or any(
            a is not None and b is not None and a != b for a, b in sizes
        ):
            raise ValueError(
                "Masks of the sigmoid must have the shape of the logits. Received: masks of shape "
                f"{tuple(y_true.shape)} for logits of shape {tuple(y_pred.shape)}. Give 0 or 1 for "
                "each class, or use activation='softmax' for class ids."
            )
        return self._valid(y_true, 2)

    def _valid(self, y_true, ids):
        known = is_class(y_true, ids)
        counted = ops.ones_like(known)
        if self.ignore_label is not None:
            counted = y_true != self.ignore_label
        valid = ops.logical_and(counted, known)
        labels = ops.cast(ops.where(valid, y_true, 0), "int32")
        return labels, valid, ops.logical_and(counted, ops.logical_not(known))

    def _one_hot(self, y_true, y_pred):
        """Truth, probabilities and validity, `(B, H, W, classes)`, and whether a pixel is wrong.

        Truth and probabilities are 0 at pixels that do not count.
        """
        labels, valid, wrong = self._labels(y_true, y_pred)
        if self.activation == "softmax":
            truth = ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
            p, valid = ops.softmax(y_pred, axis=-1), ops.expand_dims(valid, -1)
        else:
            truth, p = ops.cast(labels, y_pred.dtype), ops.sigmoid(y_pred)
        valid = ops.cast(valid, y_pred.dtype)
        return truth * valid, p * valid, valid, ops.any(wrong)

    def _mean_of_classes(self, terms, occurs, wrong):
        """The weighted mean of a number for each class, over those that occur."""
        weight = ops.cast(occurs, terms.dtype)
        if self.class_weights is not None:
            weight = weight * self._weights_of(terms.shape[-1], terms.dtype)
        loss = ops.divide_no_nan(ops.sum(weight * terms), ops.sum(weight))
        return ops.where(wrong, float("nan"), loss)

    def _selected(self, loss, valid):
        """Which pixels count, a bool map. `loss` is each pixel's cross entropy."""
        return valid

    def _terms(self, loss):
        """What each pixel adds. `loss` is its cross entropy."""
        return loss

    def _weights_of(self, classes, dtype):
        if len(self.class_weights) != classes:
            raise ValueError(
                "`class_weights` must have one number for each class. Received: "
                f"class_weights={self.class_weights} for logits of {classes} classes. Give as many."
            )
        return ops.convert_to_tensor(self.class_weights, dtype=dtype)

    @property
    def ignore_class(self) -> int | None:
        """Keras' name for `ignore_label`."""
        return self.ignore_label

    def get_config(self):
        return {
            **super().get_config(),
            "class_weights": self.class_weights,
            "activation": self.activation,
            # The name in the files of 0.1.0, which reads this file, too.
            "ignore_class": self.ignore_label,
        }


@keras.saving.register_keras_serializable(package="keras_fsa")
class OhemCrossEntropy(CrossEntropy):
    """Cross entropy of the hard pixels only: online hard example mining.

    With `p` the predicted probability of a pixel's true class, a valid pixel is selected when

        p <= max(threshold, the keep-th smallest p of all valid pixels of the batch)

    so that at least `keep` pixels count (all, if fewer are valid), among them all with
    `p <= threshold`. No gradient passes through the selection.

    On several devices, TensorFlow and torch select on each device separately, as the authors' code
    does; JAX selects from the whole batch. (The authors estimate the keep-th smallest on every
    eighth row and column; here it is exact.)

    Args:
        threshold: probability from 0 to 1.
        keep: number of pixels.
        class_weights, ignore_label, reduction, name, dtype, activation: of `CrossEntropy`.

    Raises:
        ValueError: for a threshold or a number out of range.

    Source: Shrivastava, Gupta, Girshick, "Training region-based object detectors with online hard
    example mining", arXiv:1604.03540; for pixels Wu, Shen, van den Hengel, arXiv:1605.06885.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        keep: int = 100_000,
        name: str = "ohem_cross_entropy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        number("threshold", threshold, minimum=0, maximum=1)
        positive_int("keep", keep)
        self.threshold = threshold
        self.keep = keep

    def _selected(self, loss, valid):
        # Ignored pixels sort behind every probability.
        p = ops.stop_gradient(ops.where(valid, ops.exp(-loss), 2.0))
        ranked = ops.sort(ops.reshape(p, (-1,)))
        # A sort, not `top_k`: it has a fixed shape where the size of the batch is not known.
        kth = ops.take(ranked, ops.minimum(self.keep, ops.size(p)) - 1)
        return ops.logical_and(valid, p <= ops.maximum(kth, self.threshold))

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold, "keep": self.keep}


@keras.saving.register_keras_serializable(package="keras_fsa")
class FocalLoss(CrossEntropy):
    """Focal loss: cross entropy times `(1 - p) ** gamma`, which reduces the weight of easy pixels.

        loss = sum(weight[class] (1 - p)^gamma (-log p), valid) / sum(weight[class], valid)

    with `p` the predicted probability of a pixel's true class; `gamma=0` is `CrossEntropy`.

    Args:
        gamma: focus, a number of at least 0.
        class_weights, ignore_label, reduction, name, dtype, activation: of `CrossEntropy`.

    Raises:
        ValueError: for a gamma that is negative or not finite, and as `CrossEntropy`.

    Source: Lin et al., "Focal loss for dense object detection", arXiv:1708.02002.
    """

    def __init__(self, gamma: float = 2.0, name: str = "focal_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        number("gamma", gamma, minimum=0)
        self.gamma = gamma

    def _terms(self, loss):
        # The smallest base keeps the gradient of a power below 1 finite.
        return loss * ops.maximum(1 - ops.exp(-loss), 1e-7) ** self.gamma

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma}


@keras.saving.register_keras_serializable(package="keras_fsa")
class TverskyLoss(CrossEntropy):
    """Tversky loss, a differentiable overlap of whole classes; by default the Dice loss.

    With `p[c]` the predicted probability of class `c` and `y[c]` its one-hot truth, summed over the
    valid pixels of the whole batch,

        index[c] = sum(p y) / (sum(p y) + alpha sum(p (1 - y)) + beta sum((1 - p) y))
        loss = sum(weight[c] (1 - index[c]) ^ gamma) / sum(weight[c])

    over the classes that occur in the truth; 0 if none does. `alpha` is the cost of false
    positives, `beta` that of false negatives. `alpha = beta = 1/2` is the Dice loss, `gamma` other
    than 1 the focal Tversky loss.

    The loss is one number for a batch, so sample weights cannot weight its pixels: give pixels that
    should not count the ignore label. On several devices, TensorFlow and torch compute the index
    from each device's pixels separately.

    Args:
        alpha, beta: numbers above 0.
        gamma: exponent, a number above 0.
        class_weights, ignore_label, reduction, name, dtype, activation: of `CrossEntropy`.

    Raises:
        ValueError: for a number out of range, and as `CrossEntropy`.

    Source: Salehi et al., arXiv:1706.05721; with gamma Abraham and Khan, arXiv:1810.07842; Dice:
    Milletari et al., arXiv:1606.04797.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        name: str = "tversky_loss",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        for argument, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            number(argument, value, above=0)
        self.alpha, self.beta, self.gamma = alpha, beta, gamma

    def call(self, y_true, y_pred):
        truth, p, _, wrong = self._one_hot(y_true, y_pred)
        axes = tuple(range(len(y_pred.shape) - 1))
        hit, positive, true = (ops.sum(x, axes) for x in (p * truth, p, truth))
        index = hit / ops.maximum(
            hit + self.alpha * (positive - hit) + self.beta * (true - hit), 1e-7
        )
        # The smallest base keeps the gradient of a power below 1 finite.
        terms = ops.maximum(1 - index, 1e-7) ** self.gamma
        return self._mean_of_classes(terms, true > 0, wrong)

    def get_config(self):
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "beta": self.beta,
            "gamma": self.gamma,
        }


@keras.saving.register_keras_serializable(package="keras_fsa")
class LovaszSoftmax(CrossEntropy):
    """Lovasz-softmax, the convex extension of the Jaccard loss: it optimises mean IoU directly.

    For a class `c`, a pixel's error is `m = 1 - p[c]` where the truth is `c`, else `p[c]`. With the
    errors sorted downwards and `J[n]` the IoU that is left if the first `n` pixels are wrong,

        loss = sum(weight[c] sum(m[n] (J[n - 1] - J[n]), n)) / sum(weight[c])

    over the classes that occur in the valid pixels of the whole batch; 0 if none does.

    The loss is one number for a batch, so sample weights cannot weight its pixels: give pixels that
    should not count the ignore label. On several devices, TensorFlow and torch compute the IoU from
    each device's pixels separately. The loss sorts all pixels once for each class.

    Args:
        class_weights, ignore_label, reduction, name, dtype, activation: of `CrossEntropy`.

    Raises:
        ValueError: as `CrossEntropy`.

    Source: Berman, Triki, Blaschko, "The Lovasz-softmax loss", arXiv:1705.08790.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        name: str = "lovasz_softmax",
        **kwargs: Any,
    ) -> None:
        super().__init__(class_weights, name=name, **kwargs)

    def call(self, y_true, y_pred):
        truth, p, _, wrong = self._one_hot(y_true, y_pred)
        classes = y_pred.shape[-1]
        # Ignored pixels have no error and so come last, where they change no other term.
        errors = ops.abs(truth - p)
        truth, errors = (ops.transpose(ops.reshape(x, (-1, classes))) for x in (truth, errors))
        order = ops.argsort(-errors, axis=-1)
        errors, truth = (ops.take_along_axis(x, order, axis=-1) for x in (errors, truth))
        occurs = ops.sum(truth, axis=-1)
        # Sums of ones are exact in float32 up to 16 million pixels.
        missed, extra = ops.cumsum(truth, axis=-1), ops.cumsum(1 - truth, axis=-1)
        total = ops.expand_dims(occurs, -1)
        lost = 1 - ops.divide_no_nan(total - missed, total + extra)
        steps = ops.concatenate([lost[:, :1], lost[:, 1:] - lost[:, :-1]], axis=-1)
        terms = ops.sum(errors * ops.stop_gradient(steps), axis=-1)
        return self._mean_of_classes(terms, occurs > 0, wrong)


@keras.saving.register_keras_serializable(package="keras_fsa")
class BoundaryLoss(CrossEntropy):
    """Boundary loss, a differentiable boundary F-score: it looks only at edges.

    With `p[c]` the predicted probability of class `c`, `y[c]` its one-hot truth, and `max(x, n)`
    the largest value of the valid pixels among the n x n around each,

        b(x) = max(1 - x, 3) - (1 - x)           the inner boundary of a region
        P[c] = sum(b(p) max(b(y), 2 t + 1)) / sum(b(p))
        R[c] = sum(b(y) max(b(p), 2 t + 1)) / sum(b(y))
        loss = sum(weight[c] (1 - 2 P[c] R[c] / (P[c] + R[c]))) / sum(weight[c])

    summed over the valid pixels of the whole batch, over the classes that have a boundary in the
    truth; 0 if none has. Ignored pixels form no boundary with their neighbours, nor does the edge
    of the image, as in `keras_fsa.metrics.boundary_scores`. Distances are Chebyshev distances.

    It ignores pixels far from edges: add it to another loss (`SumOfLosses`), as its authors do. The
    loss is one number for a batch, so sample weights cannot weight its pixels. On several devices,
    TensorFlow and torch compute the boundaries from each device's pixels separately.

    Args:
        tolerance: `t`, how far a predicted boundary may lie from the true one, in pixels.
        class_weights, ignore_label, reduction, name, dtype, activation: of `CrossEntropy`.

    Raises:
        ValueError: for a tolerance that is not a positive int, and as `CrossEntropy`.

    Source: Bokhovkin and Burnaev, "Boundary loss for remote sensing imagery semantic segmentation",
    arXiv:1905.07852.
    """

    def __init__(self, tolerance: int = 3, name: str = "boundary_loss", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        integer("tolerance", tolerance, maximum=100)
        self.tolerance = tolerance

    def call(self, y_true, y_pred):
        truth, p, valid, wrong = self._one_hot(y_true, y_pred)
        reach = 2 * self.tolerance + 1
        true, predicted = (self._boundary(x, valid) for x in (truth, p))
        axes = tuple(range(len(y_pred.shape) - 1))
        found, missed = ops.sum(predicted, axes), ops.sum(true, axes)
        precision = ops.sum(predicted * _largest_around(true, reach), axes)
        recall = ops.sum(true * _largest_around(predicted, reach), axes)
        precision = precision / ops.maximum(found, 1e-7)
        recall = recall / ops.maximum(missed, 1e-7)
        score = 2 * precision * recall / ops.maximum(precision + recall, 1e-7)
        return self._mean_of_classes(1 - score, missed > 0, wrong)

    @staticmethod
    def _boundary(x, valid):
        outside = (1 - x) * valid
        return (_largest_around(outside, 3) - outside) * valid

    def get_config(self):
        return {**super().get_config(), "tolerance": self.tolerance}


def _largest_around(x, size):
    return ops.max_pool(x, size, strides=1, padding="same", data_format="channels_last")


@keras.saving.register_keras_serializable(package="keras_fsa")
class SumOfLosses(keras.losses.Loss):
    """A weighted sum of losses, such as cross entropy and half of Lovasz-softmax.

    Args:
        losses: the losses, `keras.losses.Loss` objects. Their own reduction is not used, so Keras'
            `ignore_class`, which is part of it, is refused.
        weights: a positive number for each loss, or None for ones.
        reduction, name, dtype: of `keras.losses.Loss`.

    Raises:
        ValueError: for no loss, anything that is not a loss, a Keras loss with `ignore_class`, or
            weights that do not fit.
    """

    def __init__(
        self,
        losses: Sequence[keras.losses.Loss],
        weights: Sequence[float] | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "sum_of_losses",
        dtype: str = "float32",
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        valid = isinstance(losses, (list, tuple)) and losses
        if not valid or not all(isinstance(loss, keras.losses.Loss) for loss in losses):
            raise ValueError(
                "`losses` must be a list of keras.losses.Loss. Received: "
                f"losses={losses!r}. Give for example [CrossEntropy(), TverskyLoss()]."
            )
        for loss in losses:
            ignored = getattr(loss, "ignore_class", None)
            if ignored is not None and not isinstance(loss, CrossEntropy):
                raise ValueError(
                    "Pixels that one of `losses` ignores must not count in its mean. Received: "
                    f"{type(loss).__name__} with ignore_class={ignored}, where they "
                    "count as 0 in a sum. Give a loss of keras_fsa.losses, such as CrossEntropy."
                )
        if weights is not None and (
            not isinstance(weights, (list, tuple)) or len(weights) != len(losses)
        ):
            raise ValueError(
                f"`weights` must have one number for each of the {len(losses)} losses, or be None. "
                f"Received: weights={weights!r}. Give as many."
            )
        for weight in weights or ():
            number("weights", weight, above=0)
        activations = _activations(losses)
        if len(activations) > 1:
            raise ValueError(
                "`losses` must be of one activation. Received: losses of "
                f"{' and '.join(sorted(activations))}. Give all the model's."
            )
        self.losses = list(losses)
        self.weights = None if weights is None else [float(weight) for weight in weights]

    def __call__(self, y_true, y_pred, sample_weight=None):
        return super().__call__(y_true, y_pred, _weight_of_pixels(sample_weight, y_pred))

    def call(self, y_true, y_pred):
        terms = (loss.call(y_true, y_pred) for loss in self.losses)
        return sum(
            weight * term
            for weight, term in zip(self.weights or [1.0] * len(self.losses), terms, strict=True)
        )

    def get_config(self):
        losses = [keras.saving.serialize_keras_object(loss) for loss in self.losses]
        return {**super().get_config(), "losses": losses, "weights": self.weights}

    @classmethod
    def from_config(cls, config: dict) -> "SumOfLosses":
        """The loss that a configuration describes."""
        losses = [
            loss
            if isinstance(loss, keras.losses.Loss)
            else keras.saving.deserialize_keras_object(loss)
            for loss in config["losses"]
        ]
        return cls(**{**config, "losses": losses})


def _activations(losses):
    """The activations that the losses are for; losses from elsewhere have none."""
    found: set[str] = set()
    for loss in losses:
        if isinstance(loss, SumOfLosses):
            found |= _activations(loss.losses)
        elif isinstance(loss, CrossEntropy):
            found.add(loss.activation)
    return found


def _weight_of_pixels(sample_weight, y_pred):
    if sample_weight is None:
        return None
    return weight_of_pixels(ops.convert_to_tensor(sample_weight), y_pred[..., 0])


def _checked_weights(class_weights):
    """The weights as a list of floats; None stays None."""
    if class_weights is None:
        return None
    try:
        weights = [float(weight) for weight in class_weights]
        valid = bool(weights) and all(0 < weight < np.inf for weight in weights)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            "`class_weights` must be a positive number for each class, or None. Received: "
            f"class_weights={class_weights!r}. To leave a class out, give its pixels the ignore "
            "label."
        )
    return weights
