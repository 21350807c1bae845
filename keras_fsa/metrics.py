"""The scores of segmentation.

Mean IoU for `fit`, at the same speed on every backend. For a table: one confusion matrix, counted
in integers, and what follows from it; and the boundary F-score, which looks at edges alone.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_fsa.arguments import optional_import, positive_int

IGNORE_LABEL = 255
"""The label of pixels that belong to no class, in every mask that this library makes."""


@keras.saving.register_keras_serializable(package="keras_fsa")
class MeanIoU(keras.metrics.MeanIoU):
    """`keras.metrics.MeanIoU`, with the confusion matrix gathered in one sum.

    Under torch, Keras' own goes through the pixels one by one, which takes fifteen times as long as
    the training step of a small network. Results and arguments are Keras'.
    """

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add masks `(B, H, W)` or `(B, H, W, 1)` and logits `(B, H, W, num_classes)`, or ids."""
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        if not self.sparse_y_true:
            y_true = ops.argmax(y_true, axis=self.axis)
        if not self.sparse_y_pred:
            y_pred = ops.argmax(y_pred, axis=self.axis)
        y_true, y_pred = (ops.cast(ops.reshape(y, (-1,)), "int32") for y in (y_true, y_pred))
        counts = ops.ones_like(y_true, dtype=self.dtype)
        if sample_weight is not None:
            weight = ops.cast(sample_weight, self.dtype)
            counts = counts * ops.reshape(weight, (-1,))
        if self.ignore_class is not None:
            valid = y_true != self.ignore_class
            counts = counts * ops.cast(valid, self.dtype)
            y_true = ops.where(valid, y_true, 0)
        n = self.num_classes
        confusion = ops.segment_sum(counts, y_true * n + y_pred, num_segments=n * n)
        self.total_cm.assign_add(ops.reshape(ops.cast(confusion, self.dtype), (n, n)))

    def class_iou(self) -> np.ndarray:
        """IoU of each class so far, `(num_classes,)`; NaN for a class that never occurred."""
        return confusion_scores(ops.convert_to_numpy(self.total_cm))["class_iou"]


def confusion_matrix(
    masks: np.ndarray, predictions: np.ndarray, num_classes: int, ignore_label: int = IGNORE_LABEL
) -> np.ndarray:
    """How often each class was taken for each other: int64 `(num_classes, num_classes)`.

    Rows are the truth, columns the prediction. Matrices of parts of a data set add up to that of
    the whole.

    Args:
        masks: the true class ids, NumPy, of any shape.
        predictions: the predicted ids, of the same shape.
        num_classes: number of classes.
        ignore_label: true id of the pixels that do not count.

    Raises:
        ValueError: for different shapes, or for counted pixels whose ids are not classes.
    """
    masks, predictions = _known_ids(masks, predictions, num_classes, ignore_label)
    valid = masks != ignore_label
    pairs = masks[valid].astype("int64") * num_classes + predictions[valid]
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def confusion_scores(confusion: np.ndarray) -> dict[str, Any]:
    """What a benchmark's table holds, from a confusion matrix (rows truth, columns prediction).

    With `hits = diag`, and sums over rows and columns:

    - `class_iou = hits / (truth + predicted - hits)`;
    - `class_accuracy = hits / truth`;
    - `mean_iou`, `mean_accuracy`: means over the classes where these are defined;
    - `pixel_accuracy = sum of hits / number of pixels`.

    A class that is neither in the truth nor predicted has the IoU NaN and is left out of the mean,
    as benchmarks do; one that is predicted only has the IoU 0 and counts. A class without a true
    pixel has the accuracy NaN. Without any pixel all is NaN.

    Returns:
        A dict of float64: arrays `(num_classes,)` and scalars.
    """
    confusion = np.asarray(confusion, "float64")
    hits, truth, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    iou, accuracy = _ratio(hits, truth + predicted - hits), _ratio(hits, truth)
    return {
        "class_iou": iou,
        "class_accuracy": accuracy,
        "mean_iou": nan_mean(iou),
        "mean_accuracy": nan_mean(accuracy),
        "pixel_accuracy": float(_ratio(hits.sum(), confusion.sum())),
    }


def boundary_scores(
    mask: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    tolerance: float = 0.0075,
    ignore_label: int = IGNORE_LABEL,
) -> np.ndarray:
    """Boundary F-score of each class in one picture.

    The boundary of a class is formed by its pixels that have a neighbour (above, below, left or
    right) of another class. Precision is the share of the predicted boundary's pixels within the
    tolerance of a pixel of the true boundary (Euclidean distance between centres), recall the share
    of the true boundary's within the tolerance of the predicted one; `F = 2 P R / (P + R)`.

    Ignored pixels have no class, in the prediction either, and make no boundary with their
    neighbours; nor does the edge of the picture. A class whose boundary is in one of the two only
    has F = 0, in neither NaN. The score of a data set is the mean over its pictures for each class,
    NaN left out, then over the classes.

    Args:
        mask, prediction: class ids `(H, W)`, NumPy.
        num_classes: number of classes.
        tolerance: in pixels where it is 1 or more, else a share of the picture's diagonal. The
            usual 0.0075 is generous to large pictures (17 pixels of 2048x1024); 3 pixels tell more
            about edges.
        ignore_label: true id of the pixels that do not count.

    Returns:
        float64 `(num_classes,)`.

    Raises:
        ValueError: for different shapes, ids that are not classes, or a tolerance that is not
            positive.
        ImportError: where SciPy is missing, with the pip command.

    Source: Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC
    2013; for the tolerance in pixels Perazzi et al., CVPR 2016.
    """
    spatial = optional_import("scipy.spatial", "examples")
    mask, prediction = _known_ids(mask, prediction, num_classes, ignore_label)
    if mask.ndim != 2:
        raise ValueError(
            "`mask` must be one picture's ids, (H, W). Received: mask of shape "
            f"{mask.shape}. Pass the pictures one by one."
        )
    if not tolerance > 0:
        raise ValueError(
            f"`tolerance` must be positive. Received: tolerance={tolerance!r}. Give pixels (1 or "
            "more) or a share of the diagonal, such as 0.0075."
        )
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
    """`np.nanmean` that gives NaN, without a warning, where there is nothing else."""
    values = np.asarray(values, "float64")
    return _ratio(np.nansum(values, axis), (~np.isnan(values)).sum(axis))[()]


def _boundaries(ids, valid, num_classes):
    """For each class the positions `(n, 2)` of its boundary."""
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

    Boundaries are thin: a tree of their points is faster than a distance transform of the picture
    for each class.
    """
    # The bound only spares the search far away; it is beyond the tolerance, whose edge belongs.
    distance, _ = spatial.KDTree(others).query(points, distance_upper_bound=tolerance + 1)
    return np.mean(distance <= tolerance)


def _known_ids(masks, predictions, num_classes, ignore_label):
    positive_int("num_classes", num_classes)
    masks, predictions = np.asarray(masks), np.asarray(predictions)
    if masks.shape != predictions.shape:
        raise ValueError(
            "Masks and predictions must have one shape. Received: masks of shape "
            f"{masks.shape}, predictions of shape {predictions.shape}. Resize the prediction."
        )
    valid = masks != ignore_label
    for name, ids in (("masks", masks), ("predictions", predictions)):
        unknown = valid & ((ids < 0) | (ids >= num_classes))
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
