"""A trained model with its views of an image (windows, scales, mirror images), also as one file.

`keras_fsa.views` has the formula. Around a model it runs in NumPy (`keras_fsa.inference`); here
TensorFlow runs it in a graph, so that an exported file holds everything.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_fsa import _deprecation
from keras_fsa._deprecation import renamed_arguments
from keras_fsa.arguments import one_of, optional_import
from keras_fsa.inference import class_map, probabilities
from keras_fsa.models import exporting
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.types import Path
from keras_fsa.views import Views, mean_probabilities


class Segmenter:
    """Images of any size in, the class of every pixel out.

    Args:
        model: an `FsaNet`.
        window, stride, scales, flip, fit, align_corners, blend: how the model looks at an image,
            see `keras_fsa.inference.probabilities`. Default: the whole image at once. The paper's
            Cityscapes setting is `window=769, stride=513`.

    Call arguments:
        images: `(H, W, channels)` or `(B, H, W, channels)`, 0 to 255.

    Output:
        The most probable class of every pixel, uint8 `(H, W)` or `(B, H, W)`; with the sigmoid
        what `keras_fsa.inference.class_map` gives.

    Raises:
        ValueError: for a wrong argument.

    Example:
    >>> import numpy as np
    >>> from keras_fsa.segmenter import Segmenter
    >>> model = keras_fsa.FsaNet(19, backbone="resnet18")
    >>> segment = Segmenter(model, window=65, stride=43, flip=True)
    >>> segment(np.zeros((97, 131, 3), "uint8")).shape
    (97, 131)
    """

    def __init__(
        self,
        model: FsaNet,
        window: int | tuple[int, int] | None = None,
        stride: int | tuple[int, int] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        fit: tuple[int, int] | None = None,
        align_corners: bool | None = None,
        blend: str = "mean",
    ) -> None:
        if align_corners is None:
            align_corners = bool(getattr(model, "align_corners", False))
        self._views = Views(window, stride, scales, flip, fit, blend, align_corners)
        self.settings: dict[str, Any] = dataclasses.asdict(self._views)
        if not isinstance(model, FsaNet):
            raise ValueError(
                "`model` must be an FsaNet. Received: model="
                f"{model!r}. Other models: keras_fsa.inference.class_map(model, images, ...)."
            )
        self.model = model

    @renamed_arguments(pictures="images")
    def __call__(self, images: np.ndarray) -> np.ndarray:
        return class_map(self.model, images, **self.settings)

    @renamed_arguments(pictures="images")
    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities: float32 `(H, W, num_classes)`, or `(B, H, W, num_classes)` of a batch."""
        return probabilities(self.model, images, **self.settings)

    def export(
        self,
        filepath: Path,
        output: str = "log_probabilities",
        input_dtype: str = "float32",
        verbose: bool | None = None,
    ) -> None:
        """Write one SavedModel that takes images of any size, windows and all.

        Besides arrays it takes the bytes of image files, as that of `FsaNet.export` does. Its
        signatures are `serve` (also `serving_default`), which gives `output`; `serving_bytes`; and
        `logits`, the model itself on one window.

        Args:
            filepath: the folder to write.
            output: `"log_probabilities"`, float32 `(B, H, W, num_classes)`: logarithms of the mean
                probabilities, which are their own softmax's, so that they serve wherever logits
                do (with the sigmoid log odds, `log(p / (1 - p))`, for the same reason); or
                `"classes"`, uint8, as `FsaNet.export`, 255 where they are not numbers.
            input_dtype: `"float32"` or `"uint8"`.
            verbose: whether to print where the folder is. Default: True.

        Memory: at each scale one float32 array of the result's shape, another one while a window
        is added, and one of the scaled image.

        Raises:
            ValueError, ImportError: as `FsaNet.export` for the format `"tf_saved_model"`; and a
                `ValueError` for a model of one size that is to see images at another.
        """
        if output == "logits":
            _deprecation.warn('output="logits"', 'output="log_probabilities", which they are')
            output = "log_probabilities"
        one_of("output", output, ("log_probabilities", "classes"))
        model = self.model
        whole = "classes" if output == "classes" else "logits"
        images = exporting.image_spec(model, filepath, "tf_saved_model", None, whole, input_dtype)
        self._check_fixed_size()
        if self._views.window:
            # The model's own size is that of a window.
            images.shape = (None, None, None, model.image_shape[-1])
        engine, activation = _tensorflow_engine(model.num_classes), model.activation

        def log_probabilities(forward, images):
            result = mean_probabilities(engine, forward, images, None, self._views, activation)
            if activation == "softmax":
                return engine.log(result)
            return engine.log(result) - engine.log(1 - result)

        with exporting.written_at_once(filepath) as path:
            exporting.write_saved_model(path, model, images, whole, log_probabilities)
            exporting.write_description(path, model)
        if verbose or verbose is None:
            print(f"Saved the model at {str(filepath)!r}.")

    def _check_fixed_size(self):
        """Raise a `ValueError` for views that a model of one size does not take."""
        views, size = self._views, self.model.image_shape[:2]
        resized = any(scale != 1 for scale in views.scales)
        if views.fit is not None:
            # Images of the model's size may be those of `fit` already.
            sides = sorted(n or 0 for n in size)
            bounds = sorted(np.broadcast_to(views.fit, 2))
            resized |= min(bound / max(n, 1) for n, bound in zip(sides, bounds, strict=True)) != 1
        windows, _ = views.windows_and_strides()
        for side, window in zip(size, windows, strict=True):
            seen = window or (None if resized else side)
            if side is not None and seen != side:
                raise ValueError(
                    "A model of one size must see images at that size. Received: window="
                    f"{views.window}, scales={views.scales}, fit={views.fit} for a model of images "
                    f"of {size[0]} x {size[1]}. Take a `window` of that size, or no `scales` and "
                    "no `fit`."
                )


def _tensorflow_engine(classes):
    """The engine of `keras_fsa.views` in a TensorFlow graph, for sizes that only it knows."""
    tf = optional_import("tensorflow", "tensorflow")

    class Engine:
        range, take, where, floor = tf.range, tf.gather, tf.where, tf.floor
        minimum, maximum, clip = tf.minimum, tf.maximum, tf.clip_by_value
        sin, exp, sum, softmax = tf.sin, tf.exp, tf.reduce_sum, tf.nn.softmax
        sigmoid = tf.nn.sigmoid

        @staticmethod
        def size(images):
            height, width = tf.unstack(tf.shape(images)[1:3])
            return height, width

        @staticmethod
        def check_size(name, size):
            """The graph has no way to refuse; its memory has."""

        @staticmethod
        def ones(size):
            return tf.ones([size], tf.float64)

        @staticmethod
        def count(x):
            return tf.math.count_nonzero(x, dtype=tf.int32)

        @staticmethod
        def float32(x):
            return tf.cast(x, tf.float32)

        @staticmethod
        def float64(x):
            return tf.cast(x, tf.float64)

        @staticmethod
        def integer(x):
            return tf.cast(x, tf.int32)

        @staticmethod
        def zeros(images, size):
            return tf.zeros([tf.shape(images)[0], *size, images.shape[-1]])

        @staticmethod
        def fold(add_window, rows, columns, images):
            corners = tf.stack(tf.meshgrid(rows.starts, columns.starts, indexing="ij"), -1)
            shape = [tf.shape(images)[0], rows.new_size, columns.new_size, classes]
            # One by one: windows that run at the same time take memory at the same time.
            return tf.foldl(
                lambda total, corner: add_window(total, corner[0], corner[1]),
                tf.reshape(corners, (-1, 2)),
                tf.zeros(shape),
                parallel_iterations=1,
            )

        @staticmethod
        def add(total, x, rows, top, columns, left):
            (first, stop, row_taps), (start, end, column_taps) = rows.part(top), columns.part(left)
            # A float64 model gives float64.
            x = tf.cast(x, tf.float32)
            x = tf.add_n([tf.gather(x, i, axis=1) * w[:, None, None] for i, w in row_taps])
            x = tf.add_n([tf.gather(x, i, axis=2) * w[:, None] for i, w in column_taps])
            around = [
                (0, 0),
                (first, rows.new_size - stop),
                (start, columns.new_size - end),
                (0, 0),
            ]
            return total + tf.pad(x, around)

        @staticmethod
        def log(x):
            # The smallest float32 that no processor takes for zero; NaN stays NaN.
            tiny = np.finfo("float32").tiny
            return tf.math.log(tf.where(x < tiny, tiny, x))

    return Engine
