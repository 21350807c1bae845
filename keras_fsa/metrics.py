"""Mean intersection over union, at the same speed on every backend."""

import keras
import numpy as np
from keras import ops


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

    def class_iou(self):
        """IoU of each class so far, `(num_classes,)`; NaN for a class that never occurred."""
        confusion = ops.convert_to_numpy(self.total_cm)
        hits = np.diag(confusion)
        union = confusion.sum(0) + confusion.sum(1) - hits
        return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
