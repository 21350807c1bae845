"""Find masks that cannot belong to their images before training begins."""

from typing import Any

import keras


def check_data(x: Any, y: Any, class_weight: Any, num_classes: int, activation: str) -> None:
    """Raise a `ValueError` for data for `fit` that is wrong, as far as shapes are known."""
    if class_weight is not None:
        raise ValueError(
            "`class_weight` must be left out: Keras looks for the one class of an image. "
            f"Received: class_weight={class_weight!r}. Give the weights to the loss, "
            "model.compile(loss=keras_fsa.losses.CrossEntropy(class_weights=[...]))."
        )
    # Of a `tf.data.Dataset`.
    spec = None if isinstance(x, keras.utils.PyDataset) else getattr(x, "element_spec", None)
    images, masks = spec[:2] if isinstance(spec, tuple) and len(spec) > 1 else (x, y)
    check_masks(masks, images, num_classes, activation)


def check_masks(masks: Any, images: Any, num_classes: int, activation: str) -> None:
    """Raise a `ValueError` if masks cannot fit the images, as far as shapes are known."""
    shape, expected = _known_shape(masks), _known_shape(images)
    if not shape or not expected:
        return
    each = activation == "sigmoid" and num_classes > 1
    last = num_classes if each else None
    fits = len(shape) in ((4,) if each else (3, 4)) and all(
        size is None or want is None or size == want
        for size, want in zip(shape, (*expected[:3], last), strict=False)
    )
    if not fits:
        rule = f"(B, H, W, {last})" if each else "(B, H, W) or (B, H, W, 1)"
        raise ValueError(
            f"Masks must have the height and width of their images, {rule}. "
            f"Received: masks of shape {shape} for images of shape {expected}. Resize the "
            "masks with the nearest-neighbour method, or crop both alike."
        )


def _known_shape(x):
    """The static shape of an array, or None. TensorFlow may not know the rank."""
    shape = getattr(x, "shape", None)
    return None if shape is None or getattr(shape, "rank", 0) is None else tuple(shape)
