"""Losses of masks and logits that Keras lacks: hard pixels only, and classes that weigh unequally.

Both are means over *chosen* pixels, and ignored pixels are never chosen:

    loss = sum(weight[class] * cross_entropy, chosen) / sum(weight[class], chosen)

and 0 where no pixel is chosen. (PyTorch's `CrossEntropyLoss` averages in the same way.)
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa.arguments import positive_int


@keras.saving.register_keras_serializable(package="keras_fsa")
class CrossEntropy(keras.losses.Loss):
    """Cross entropy of masks and logits, with a weight for each class; all valid pixels count.

    Args:
        class_weights: a positive number for each class, or None for equal weights.
        ignore_class: the label of pixels that do not count, or None.
        reduction, name, dtype: of `keras.losses.Loss`. The default reduction gives the formula of
            this file; sample weights then multiply the pixels' terms, as they do in Keras. With
            `reduction=None` the result is a map `(B, H, W)` whose mean is that formula.

    Call arguments:
        y_true: masks `(B, H, W)` or `(B, H, W, 1)`, class ids of any dtype.
        y_pred: logits `(B, H, W, classes)`. The loss computes in float32 whatever their dtype.

    Raises:
        ValueError: for class weights that are not positive numbers, or are not one for each class
            of the logits.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        ignore_class: int | None = 255,
        reduction: str | None = "sum_over_batch_size",
        name: str = "cross_entropy",
        dtype: str = "float32",
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if class_weights is not None:
            class_weights = [float(weight) for weight in class_weights]
            if not class_weights or not all(0 < weight < np.inf for weight in class_weights):
                raise ValueError(
                    "`class_weights` must be a positive number for each class, or None. Received: "
                    f"class_weights={class_weights}. To leave a class out, give its pixels the "
                    "ignore label."
                )
        self.class_weights = class_weights
        self.ignore_class = ignore_class

    def call(self, y_true, y_pred):
        if len(y_true.shape) == len(y_pred.shape):
            y_true = ops.squeeze(y_true, axis=-1)
        labels = ops.cast(y_true, "int32")
        valid = ops.ones_like(labels, dtype="bool")
        if self.ignore_class is not None:
            valid = labels != self.ignore_class
        labels = ops.where(valid, labels, 0)
        loss = ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
        weight = ops.cast(self._chosen(loss, valid), loss.dtype)
        if self.class_weights is not None:
            if len(self.class_weights) != y_pred.shape[-1]:
                raise ValueError(
                    "`class_weights` must have one number for each class. Received: "
                    f"class_weights={self.class_weights} for logits of {y_pred.shape[-1]} classes. "
                    "Give as many."
                )
            weight = weight * ops.take(np.asarray(self.class_weights, "float32"), labels, axis=0)
        # A map whose mean is the weighted mean: Keras then reduces it, with sample weights and with
        # the share of this replica where there are several.
        count = ops.cast(ops.size(loss), loss.dtype)
        return loss * weight * ops.divide_no_nan(count, ops.sum(weight))

    def _chosen(self, loss, valid):
        """Which pixels count, a bool map. `loss` is each pixel's cross entropy."""
        return valid

    def get_config(self):
        return {
            **super().get_config(),
            "class_weights": self.class_weights,
            "ignore_class": self.ignore_class,
        }


@keras.saving.register_keras_serializable(package="keras_fsa")
class OhemCrossEntropy(CrossEntropy):
    """Cross entropy of the hard pixels only: online hard example mining.

    With `p` the predicted probability of a pixel's true class, a valid pixel is chosen when

        p <= max(threshold, the keep-th smallest p of all valid pixels of the batch)

    so that at least `keep` pixels count (all, where fewer are valid), among them all with
    `p <= threshold`. Which pixels are chosen is no function that has a gradient.

    On several devices, TensorFlow and torch choose for each device apart, as the authors' code
    does; JAX chooses from the whole batch. (The authors estimate the keep-th smallest on every
    eighth row and column; this one is exact.)

    Args:
        threshold: probability from 0 to 1.
        keep: number of pixels.
        class_weights, ignore_class, reduction, name, dtype: of `CrossEntropy`.

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
        if not 0 <= threshold <= 1:
            raise ValueError(
                f"`threshold` must be a probability from 0 to 1. Received: threshold={threshold!r}."
                " The usual one is 0.7."
            )
        positive_int("keep", keep)
        self.threshold = threshold
        self.keep = keep

    def _chosen(self, loss, valid):
        # Ignored pixels sort behind every probability.
        p = ops.stop_gradient(ops.where(valid, ops.exp(-loss), 2.0))
        ranked = ops.sort(ops.reshape(p, (-1,)))
        # A sort, not `top_k`: it has a fixed shape where the size of the batch is not known.
        kth = ops.take(ranked, ops.minimum(self.keep, ops.size(p)) - 1)
        return ops.logical_and(valid, p <= ops.maximum(kth, self.threshold))

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold, "keep": self.keep}
