"""Segmentation scores.

Mean IoU for `fit`, equally fast on every backend. For benchmark tables: one confusion matrix,
counted in integers, and the scores that follow from it; the boundary F-score, which looks only at
edges; and the calibration error. `keras_fsa.classes` defines masks and answers.

A pixel that cannot be scored (an id that is no class, logits that are not numbers) is never counted
as some class: NumPy functions raise a `ValueError`, and `MeanIoU`, which runs inside compiled
steps, becomes NaN.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa.arguments import integer, number, one_of, optional_import, positive_int
from keras_fsa.classes import ACTIVATIONS, by_class, decide

__all__ = [
    "IGNORE_LABEL",
    "MeanBinaryIoU",
    "MeanIoU",
    "binary_confusions",
    "binary_scores",
    "boundary_scores",
    "calibration_counts",
    "calibration_error",
    "confusion_matrix",
    "confusion_scores",
    "mean_iou",
]

IGNORE_LABEL = 255
"""The label of pixels that belong to no class, in every mask that this library makes."""

PARTS = 16
"""The number of sums in which the pixels of a batch are counted, each below 2**24."""

MOST_PIXELS = 2**30
"""Limit of one cell of a confusion matrix: half of what an int32 holds."""


def is_class(ids: Any, num_classes: int) -> Any:
    """Whether each id is a whole number from 0 to `num_classes - 1`: a bool tensor."""
    return ops.logical_and(
        ops.logical_and(ids >= 0, ids < num_classes),
        # Not `ids == floor(ids)`, which integer tensors lack on some backends; NaN is above.
        ops.cast(ops.cast(ids, "int32"), ids.dtype) == ids,
    )


def check_ids(y_true: Any, y_pred: Any) -> None:
    """Raise a `ValueError` for masks with an axis of classes where ids are expected."""
    if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] not in (1, None):
        raise ValueError(
            "Masks must hold one class id for each pixel, (B, H, W) or (B, H, W, 1). Received: "
            f"masks of shape {tuple(y_true.shape)} for logits of shape {tuple(y_pred.shape)}. Of "
            "one-hot masks take the argmax over the last axis; or give `compile` a loss and "
            "`metrics` that take them."
        )


def check_predicted_ids(y_true: Any, y_pred: Any) -> None:
    """Raise a `ValueError` for predictions with an axis of classes where ids are expected."""
    masks, predictions = tuple(y_true.shape), tuple(y_pred.shape)
    positions = masks[:-1] if masks[-1:] == (1,) else masks
    if predictions[-1:] not in ((), (1,)) and predictions[:-1] == positions:
        raise ValueError(
            "`MeanIoU` takes predicted class ids unless `sparse_y_pred=False`. Received: "
            f"predictions of shape {predictions} for masks of shape {masks}. For logits write "
            "MeanIoU(num_classes, ignore_class=255, sparse_y_pred=False)."
        )


def weight_of_pixels(sample_weight: Any, like: Any) -> Any:
    """Sample weights; those of one per image, `(B,)`, are spread to each pixel of `like`."""
    if sample_weight is None or len(sample_weight.shape) != 1:
        return sample_weight
    images = ops.reshape(sample_weight, (-1, *[1] * (len(like.shape) - 1)))
    return images * ops.ones_like(like, dtype=images.dtype)


@keras.saving.register_keras_serializable(package="keras_fsa")
class MeanIoU(keras.metrics.MeanIoU):
    """`keras.metrics.MeanIoU` that accumulates the confusion matrix in one sum, never miscounting.

    Under torch, Keras' own metric visits pixels one by one, which takes fifteen times as long as a
    training step of a small network. Arguments and results are Keras', with one exception: if a
    pixel that counts has a true or predicted id that is no class, or logits without a largest one
    (NaN, or infinity), the result is NaN until `reset_state`. Keras' own metric would count the
    pixel in a wrong cell, drop it or take NaN for class 0, depending on the backend. Pixels with
    the ignore label or the sample weight 0 do not count.

    As in Keras, sample weights are cast to the metric's `dtype`, by default an integer type, so 0.5
    counts as 0: for fractions pass `dtype="float32"`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Of the confusion matrix, what an int32 would overflow with.
        self.carried = self.add_variable(
            (self.num_classes, self.num_classes), "zeros", dtype="float32", name="carried"
        )
        # Apart from the confusion matrix, whose dtype is an integer by default.
        self.unscored = self.add_variable((), "zeros", dtype="float32", name="unscored")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add masks `(B, H, W)` or `(B, H, W, 1)` and logits `(B, H, W, num_classes)`, or ids."""
        y_true, y_pred = (_wide(ops.convert_to_tensor(y)) for y in (y_true, y_pred))
        n = self.num_classes
        if not self.sparse_y_true:
            y_true = ops.argmax(y_true, axis=self.axis)
        elif self.axis == -1 and not self.sparse_y_pred:
            check_ids(y_true, y_pred)
        if self.sparse_y_pred:
            check_predicted_ids(y_true, y_pred)
            known = is_class(y_pred, n)
        else:
            known = has_largest(y_pred, self.axis)
            y_pred = ops.argmax(y_pred, axis=self.axis)
        counts = ops.ones_like(y_true, dtype=self.dtype)
        if sample_weight is not None:
            weight = weight_of_pixels(ops.cast(sample_weight, self.dtype), y_true)
            counts = counts * ops.reshape(weight, ops.shape(y_true))
        y_true, y_pred, known, counts = (
            ops.reshape(y, (-1,)) for y in (y_true, y_pred, known, counts)
        )
        nothing = ops.zeros_like(counts)
        if self.ignore_class is not None:
            counts = ops.where(y_true == self.ignore_class, nothing, counts)
        known = ops.logical_and(known, is_class(y_true, n))
        wrong = ops.logical_and(ops.logical_not(known), counts != 0)
        counts = ops.where(known, counts, nothing)
        y_true, y_pred = (ops.cast(ops.where(known, y, 0), "int32") for y in (y_true, y_pred))
        # Under torch Keras sums in float32, where a sum of ones stops at 2**24.
        part = ops.arange(ops.shape(y_true)[0], dtype="int32") % PARTS
        cells = (part * n + y_true) * n + y_pred
        sums = ops.segment_sum(counts, cells, num_segments=PARTS * n * n)
        confusion = ops.sum(ops.reshape(sums, (PARTS, n, n)), axis=0)
        total = self.total_cm + ops.cast(confusion, self.total_cm.dtype)
        moved = ops.where(total >= MOST_PIXELS, total, ops.zeros_like(total))
        self.carried.assign_add(ops.cast(moved, "float32"))
        self.total_cm.assign(total - moved)
        self.unscored.assign_add(ops.sum(ops.cast(wrong, "float32")))

    def result(self):
        """Mean IoU over the classes that occurred; NaN where pixels could not be scored."""
        confusion = ops.cast(self.total_cm, "float32") + self.carried
        hits = ops.diagonal(confusion)
        union = ops.sum(confusion, 0) + ops.sum(confusion, 1) - hits
        return _mean_of_scored(hits, union, self.unscored)

    def reset_state(self):
        """Forget all pixels."""
        super().reset_state()
        self.carried.assign(ops.zeros(self.carried.shape))
        self.unscored.assign(0.0)

    def class_iou(self) -> np.ndarray:
        """IoU of each class so far, `(num_classes,)`; NaN for a class that never occurred.

        Raises:
            ValueError: if pixels were seen that cannot be scored.
        """
        unscored = int(ops.convert_to_numpy(self.unscored))
        if unscored:
            raise ValueError(
                f"`MeanIoU` must see ids from 0 to {self.num_classes - 1} or the ignore label "
                f"{self.ignore_class}, and finite logits. Received: {unscored} pixels with another "
                "id or with NaN logits since `reset_state`. Check the masks with "
                "`confusion_matrix`, which names the ids, and the model's output for NaN."
            )
        counts, carried = map(ops.convert_to_numpy, (self.total_cm, self.carried))
        return confusion_scores(counts.astype("float64") + carried)["class_iou"]


@keras.saving.register_keras_serializable(package="keras_fsa")
class MeanBinaryIoU(keras.metrics.Metric):
    """Mean IoU for models with the sigmoid, whose masks have a yes or no for each class.

        IoU[c] = hits / (true + predicted - hits),  of the pixels whose answer is "yes"

    The mean is over the classes that occur in masks or predictions. Pixels with the ignore label or
    the sample weight 0 do not count. If a pixel that counts is neither 0 nor 1 or has a NaN logit,
    the result is NaN until `reset_state`.

    Args:
        num_classes: number of classes.
        threshold: lowest probability that counts as "yes".
        ignore_class: label of pixels that do not count, or None.
        name, dtype: of `keras.metrics.Metric`.

    Raises:
        ValueError: for a number out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        threshold: float = 0.5,
        ignore_class: int | None = IGNORE_LABEL,
        name: str = "mean_iou",
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        positive_int("num_classes", num_classes)
        number("threshold", threshold, above=0, below=1)
        integer("ignore_class", ignore_class, -(2**31), optional=True)
        self.num_classes, self.threshold, self.ignore_class = num_classes, threshold, ignore_class
        # Hits, true and predicted pixels: an int32 would overflow in a long epoch, while a float32
        # takes whole batches with a relative error of 6e-8.
        self.counts = self.add_variable((3, num_classes), "zeros", dtype="float32", name="counts")
        self.unscored = self.add_variable((), "zeros", dtype="float32", name="unscored")

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add masks `(B, H, W, C)` of 0 and 1 (`(B, H, W)` where C is 1) and logits."""
        y_true, y_pred = (ops.convert_to_tensor(y) for y in (y_true, y_pred))
        y_true = _wide(y_true)
        if len(y_true.shape) == len(y_pred.shape) - 1 and self.num_classes == 1:
            y_true = ops.expand_dims(y_true, -1)
        counted = ops.ones_like(y_pred, dtype="bool")
        if self.ignore_class is not None:
            counted = ops.logical_and(counted, y_true != self.ignore_class)
        if sample_weight is not None:
            weight = weight_of_pixels(ops.convert_to_tensor(sample_weight), y_pred)
            if len(weight.shape) < len(y_pred.shape):
                weight = ops.expand_dims(weight, -1)
            counted = ops.logical_and(counted, weight != 0)
        known = ops.logical_and(is_class(y_true, 2), ops.logical_not(ops.isnan(y_pred)))
        wrong = ops.logical_and(counted, ops.logical_not(known))
        counted = ops.logical_and(counted, known)
        true = ops.logical_and(counted, y_true == 1)
        # In logits: log(t / (1 - t)).
        yes = ops.logical_and(
            counted, y_pred >= float(np.log(self.threshold / (1 - self.threshold)))
        )
        axes = tuple(range(len(y_pred.shape) - 1))
        sums = [
            ops.sum(ops.cast(answer, "int32"), axes)
            for answer in (ops.logical_and(true, yes), true, yes)
        ]
        self.counts.assign_add(ops.cast(ops.stack(sums), "float32"))
        self.unscored.assign_add(ops.sum(ops.cast(wrong, "float32")))

    def result(self):
        """Mean IoU over the classes that occurred; NaN where pixels could not be scored."""
        hits, true, predicted = (self.counts[i] for i in range(3))
        return _mean_of_scored(hits, true + predicted - hits, self.unscored)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "threshold": self.threshold,
            "ignore_class": self.ignore_class,
        }


def mean_iou(num_classes: int, activation: str = "softmax") -> keras.metrics.Metric:
    """Mean IoU of logits for `fit`, named `mean_iou`, for either activation of `keras_fsa.classes`.

    Args:
        num_classes: number of classes.
        activation: `"softmax"` or `"sigmoid"`.

    Raises:
        ValueError: for another activation.
    """
    one_of("activation", activation, ACTIVATIONS)
    if activation == "sigmoid":
        return MeanBinaryIoU(num_classes)
    return MeanIoU(num_classes, ignore_class=IGNORE_LABEL, sparse_y_pred=False, name="mean_iou")


def has_largest(logits: Any, axis: int = -1) -> Any:
    """Whether the softmax of each pixel is defined: no NaN, and a finite largest logit."""
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(logits.dtype)):
        return ops.ones_like(ops.max(logits, axis=axis), dtype="bool")
    nan = ops.any(ops.isnan(logits), axis=axis)
    return ops.logical_and(ops.logical_not(nan), ops.isfinite(ops.max(logits, axis=axis)))


def _mean_of_scored(hits, union, unscored):
    """Mean of `hits / union` over non-empty unions; NaN if a pixel could not be scored."""
    occurs = ops.cast(union > 0, "float32")
    mean = ops.divide_no_nan(ops.sum(ops.divide_no_nan(hits, union)), ops.sum(occurs))
    return ops.where(unscored > 0, ops.cast(float("nan"), mean.dtype), mean)


def _wide(y):
    """Integers as int32: uint8 cannot hold -1, nor be compared with every value."""
    is_float = keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype))
    return y if is_float else ops.cast(y, "int32")


def confusion_matrix(
    masks: np.ndarray, predictions: np.ndarray, num_classes: int, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """How often each class was predicted for each true class: int64 `(num_classes, num_classes)`.

    Rows are the truth, columns the prediction. The matrices of parts of a dataset add up to the
    matrix of the whole.

    Args:
        masks: the true class ids, NumPy, of any shape.
        predictions: the predicted ids, of the same shape.
        num_classes: number of classes.
        ignore_label: true id of the pixels that do not count.

    Raises:
        ValueError: for different shapes, or for counted pixels whose ids are not classes: beyond
            them, fractional, or NaN.
    """
    masks, predictions = _known_ids(masks, predictions, num_classes, ignore_label)
    valid = masks != ignore_label
    pairs = masks[valid].astype("int64") * num_classes + predictions[valid].astype("int64")
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def confusion_scores(confusion: np.ndarray) -> dict[str, Any]:
    """The scores of a benchmark table, from a confusion matrix (rows truth, columns prediction).

    With `hits = diag`, and sums over rows and columns:

    - `class_iou = hits / (truth + predicted - hits)`;
    - `class_dice = 2 hits / (truth + predicted)`, also called the F1 score;
    - `class_accuracy = hits / truth`;
    - `mean_iou`, `mean_dice`, `mean_accuracy`: means over the classes for which these are defined;
    - `pixel_accuracy = sum of hits / number of pixels`.

    A class that is neither in the truth nor predicted has the IoU and Dice score NaN and is left
    out of the mean, as in benchmarks; one that is only predicted has 0 and counts. A class without
    a true pixel has the accuracy NaN. Without any pixels, all scores are NaN.

    Returns:
        A dict of float64: arrays `(num_classes,)` and scalars.

    Raises:
        ValueError: if the matrix is not square, or holds anything but counts of at least 0.
    """
    counts = np.asarray(confusion)
    if (
        counts.ndim != 2
        or counts.shape[0] != counts.shape[1]
        or counts.dtype.kind not in "buif"
        or not (np.isfinite(counts) & (counts >= 0)).all()
    ):
        raise ValueError(
            "`confusion` must be a square matrix of finite counts of at least 0. Received: "
            f"confusion={repr(counts)[:200]}, of shape {counts.shape}. Pass the result of "
            "`confusion_matrix`."
        )
    confusion = counts.astype("float64")
    hits, truth, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    iou, accuracy = _ratio(hits, truth + predicted - hits), _ratio(hits, truth)
    dice = _ratio(2 * hits, truth + predicted)
    return {
        "class_iou": iou,
        "class_dice": dice,
        "class_accuracy": accuracy,
        "mean_iou": nan_mean(iou),
        "mean_dice": nan_mean(dice),
        "mean_accuracy": nan_mean(accuracy),
        "pixel_accuracy": float(_ratio(hits.sum(), confusion.sum())),
    }


def binary_confusions(
    masks: np.ndarray, predictions: np.ndarray, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """A `confusion_matrix` of yes and no for each class: int64 `(num_classes, 2, 2)`.

    Args:
        masks: 0 and 1, or the ignore label, NumPy `(..., num_classes)`.
        predictions: 0 and 1, of the same shape.
        ignore_label: label of the pixels that do not count, for each class separately.

    Raises:
        ValueError: as `confusion_matrix`.
    """
    masks, predictions = _known_ids(masks, predictions, 2, ignore_label)
    if not masks.ndim or not masks.shape[-1]:
        raise ValueError(
            "`masks` must have the classes on their last axis. Received: masks of shape "
            f"{masks.shape}. Stack one mask for each class."
        )
    each = zip(*(np.moveaxis(ids, -1, 0) for ids in (masks, predictions)), strict=True)
    return np.stack([confusion_matrix(mask, ids, 2, ignore_label) for mask, ids in each])


def binary_scores(confusions: np.ndarray) -> dict[str, Any]:
    """`confusion_scores` for each class's "yes", from `(num_classes, 2, 2)` counts.

    Arrays and means have the same names and rules; `pixel_accuracy` is the share of right answers.

    Raises:
        ValueError: if the counts are not two by two for each class, or are not counts.
    """
    confusions = np.asarray(confusions)
    if confusions.ndim != 3 or confusions.shape[1:] != (2, 2) or not len(confusions):
        raise ValueError(
            "`confusions` must be counts (num_classes, 2, 2). Received: confusions of shape "
            f"{confusions.shape}. Pass the result of `binary_confusions`."
        )
    each = [confusion_scores(confusion) for confusion in confusions]
    names = ("iou", "dice", "accuracy")
    scores = {f"class_{name}": np.array([s[f"class_{name}"][1] for s in each]) for name in names}
    means = {f"mean_{name}": nan_mean(scores[f"class_{name}"]) for name in names}
    total = confusions.astype("float64").sum(0)
    return {**scores, **means, "pixel_accuracy": float(_ratio(np.trace(total), total.sum()))}


def calibration_counts(
    masks: np.ndarray,
    probabilities: np.ndarray,
    activation: str = "softmax",
    bins: int = 15,
    ignore_label: int = IGNORE_LABEL,
) -> np.ndarray:
    """How confident the answers are, and how often they are right: float64 `(3, bins)`.

    An answer's confidence is its probability: for the softmax that of the most probable class, for
    the sigmoid `max(p, 1 - p)` of each class. Rows are the number of answers, the sum of their
    confidences and the number of right ones; columns are bins of equal width of the confidence,
    from 0 to 1. The counts of parts of a dataset add up.

    Args:
        masks: as `keras_fsa.classes` says, NumPy: `(...)`, or for the sigmoid `(..., num_classes)`.
        probabilities: `(..., num_classes)`.
        activation: `"softmax"` or `"sigmoid"`.
        bins: number of bins.
        ignore_label: label of the pixels that do not count.

    Raises:
        ValueError: for shapes that do not match, ids that are not classes, or values that are not
            probabilities.
    """
    positive_int("bins", bins)
    p = np.asarray(probabilities)
    if p.dtype.kind != "f" or not p.ndim or not ((p >= 0) & (p <= 1 + 1e-5)).all():
        raise ValueError(
            "`probabilities` must lie in 0 to 1, with the classes on the last axis. Received: "
            f"probabilities of dtype {p.dtype} and shape {p.shape}. Pass those of "
            "keras_fsa.inference.probabilities."
        )
    answers = decide(p, activation)
    if activation == "softmax":
        masks, answers = _known_ids(masks, answers, p.shape[-1], ignore_label)
        confidence = p.max(-1)
    else:
        masks, answers = (by_class(ids, p.shape[-1]) for ids in (masks, answers))
        masks, answers = _known_ids(masks, answers, 2, ignore_label)
        confidence = np.maximum(p, 1 - p)
    valid = masks != ignore_label
    confidence, right = confidence[valid].astype("float64"), (masks == answers)[valid]
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    return np.stack([np.bincount(place, x, bins) for x in (np.ones_like(right), confidence, right)])


def calibration_error(counts: np.ndarray) -> float:
    """Expected calibration error: `sum over bins n |right / n - confidence / n| / sum n`.

    It is 0 if, at each confidence, answers are right as often as they claim.

    Args:
        counts: a sum of results of `calibration_counts`.

    Returns:
        From 0 to 1; NaN without any answer.

    Raises:
        ValueError: for an array of another shape.

    Source: Guo et al., "On calibration of modern neural networks", arXiv:1706.04599.
    """
    counts = np.asarray(counts)
    if counts.dtype.kind not in "buif" or counts.ndim != 2 or len(counts) != 3:
        raise ValueError(
            "`counts` must be numbers of the shape (3, bins). Received: counts of dtype "
            f"{counts.dtype} and shape {counts.shape}. Pass the result of `calibration_counts`."
        )
    answers, confidence, right = counts.astype("float64")
    return float(_ratio(np.abs(right - confidence).sum(), answers.sum()))


def boundary_scores(
    mask: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    tolerance: float = 0.0075,
    ignore_label: int = IGNORE_LABEL,
) -> np.ndarray:
    """Boundary F-score of each class in one image.

    The boundary of a class is formed by its pixels that have a neighbour (above, below, left or
    right) of another class. Precision is the share of the predicted boundary's pixels within the
    tolerance of a pixel of the true boundary (Euclidean distance between centres), recall the share
    of the true boundary's within the tolerance of the predicted one; `F = 2 P R / (P + R)`.

    Ignored pixels have no class, in the prediction either, and form no boundary with their
    neighbours; nor does the edge of the image. A class whose boundary is in only one of the two has
    F = 0; if it is in neither, NaN. The score of a dataset is, for each class, the mean over the
    images where it is not NaN, then the mean over the classes.

    Args:
        mask, prediction: class ids `(H, W)`, NumPy.
        num_classes: number of classes.
        tolerance: in pixels if it is 1 or more, else as a share of the image's diagonal. The usual
            0.0075 is generous for large images (17 pixels at 2048x1024); 3 pixels say more about
            edges.
        ignore_label: true id of the pixels that do not count.

    Returns:
        float64 `(num_classes,)`.

    Raises:
        ValueError: for different shapes, ids that are not classes, or a tolerance that is not
            positive.
        ImportError: if SciPy is missing, with the pip command.

    Source: Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC
    2013; for the tolerance in pixels Perazzi et al., CVPR 2016.
    """
    spatial = optional_import("scipy.spatial", "tools")
    mask, prediction = _known_ids(mask, prediction, num_classes, ignore_label)
    if mask.ndim != 2:
        raise ValueError(
            "`mask` must be the ids of one image, (H, W). Received: mask of shape "
            f"{mask.shape}. Pass images one by one."
        )
    number("tolerance", tolerance, above=0)
    if tolerance < 1:
        tolerance = tolerance * np.hypot(*mask.shape)
    valid = mask != ignore_label
    sides = [_boundaries(ids, valid, num_classes) for ids in (mask, prediction)]
    result = np.full(num_classes, np.nan)
    for label, (true, predicted) in enumerate(zip(*sides, strict=True)):
        if len(true) and len(predicted):
            precision = _share_near(predicted, true, tolerance, spatial)
            recall = _share_near(true, predicted, tolerance, spatial)
            total = precision + recall
            result[label] = 2 * precision * recall / total if total else 0.0
        elif len(true) or len(predicted):
            result[label] = 0.0
    return result


def nan_mean(values: Any, axis: int | None = None) -> Any:
    """`np.nanmean` that returns NaN without a warning if all values are NaN."""
    values = np.asarray(values, "float64")
    return _ratio(np.nansum(values, axis), (~np.isnan(values)).sum(axis))[()]


def _boundaries(ids, valid, num_classes):
    """The positions `(n, 2)` of each class's boundary."""
    edge = np.zeros(ids.shape, bool)
    for before, after in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        differ = (ids[before] != ids[after]) & valid[before] & valid[after]
        edge[before] |= differ
        edge[after] |= differ
    points = np.argwhere(edge)
    labels = ids[edge]
    return [points[labels == label] for label in range(num_classes)]


def _share_near(points, others, tolerance, spatial):
    """Share of the points within the tolerance of another.

    Boundaries are thin, so a tree of their points is faster than a distance transform of the image
    for each class.
    """
    # The bound only cuts the search short; it lies beyond the tolerance, which is inclusive.
    distance, _ = spatial.KDTree(others).query(points, distance_upper_bound=tolerance + 1)
    return np.mean(distance <= tolerance)


def _known_ids(masks, predictions, num_classes, ignore_label):
    positive_int("num_classes", num_classes)
    # The ids of the largest masks there are, uint16: a confusion matrix of more fills any memory.
    number("num_classes", num_classes, maximum=2**16)
    integer("ignore_label", ignore_label, -(2**31))
    masks, predictions = np.asarray(masks), np.asarray(predictions)
    for name, ids in (("masks", masks), ("predictions", predictions)):
        if ids.dtype.kind not in "buif":
            raise ValueError(
                f"`{name}` must be an array of class ids. Received: {name} of dtype {ids.dtype}. "
                "Convert it to integers."
            )
    if masks.shape != predictions.shape:
        raise ValueError(
            "Masks and predictions must have one shape. Received: masks of shape "
            f"{masks.shape}, predictions of shape {predictions.shape}. Resize the prediction."
        )
    valid = masks != ignore_label
    for name, ids in (("masks", masks), ("predictions", predictions)):
        # Written so that NaN, which every comparison fails, is unknown.
        unknown = valid & ~((ids >= 0) & (ids < num_classes) & (np.floor(ids) == ids))
        if unknown.any():
            raise ValueError(
                f"`{name}` must hold the ids 0 to {num_classes - 1}, wherever the mask is not "
                f"the ignore label {ignore_label}. Received: "
                f"{name} with {np.unique(ids[unknown])[:5].tolist()}. "
                "Correct `num_classes` or `ignore_label`, or map the ids."
            )
    return masks, predictions


def _ratio(numerator, denominator):
    denominator = np.asarray(denominator)
    nothing = np.full(denominator.shape, np.nan)
    return np.divide(numerator, denominator, out=nothing, where=denominator > 0)
