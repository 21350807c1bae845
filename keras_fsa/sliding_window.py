"""A trained model, and how it looks at pictures: in windows, at scales, mirrored; also as one file.

`keras_fsa.inference` has the arithmetic, in NumPy around any model. Here it is once more as a
TensorFlow graph around the model, so that an exported file holds it all.
"""

from collections.abc import Sequence

import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.inference import (
    check_fit,
    check_scales,
    class_map,
    probabilities,
    window_and_stride,
)
from keras_fsa.models import exporting
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.types import Path


class SlidingWindow:
    """Pictures of any size in, the class of every pixel out.

    Args:
        model: an `FsaNet`.
        window, stride, scales, flip, fit, align_corners: how the model looks at a picture, see
            `keras_fsa.inference.probabilities`. The paper's Cityscapes setting is `window=769,
            stride=513`.

    Call arguments:
        pictures: `(H, W, channels)` or `(B, H, W, channels)`, 0 to 255.

    Output:
        The most probable class of every pixel, uint8 `(H, W)` or `(B, H, W)`.

    Raises:
        ValueError: for a wrong argument.

    Example:
    >>> import numpy as np
    >>> model = keras_fsa.FsaNet(19, backbone="resnet18")
    >>> predict = keras_fsa.SlidingWindow(model, window=65, stride=43, flip=True)
    >>> predict(np.zeros((97, 131, 3), "uint8")).shape
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
    ) -> None:
        window_and_stride(window, stride)
        check_scales(scales)
        check_fit(fit)
        if align_corners is None:
            align_corners = model.align_corners
        self.model = model
        self.settings = {
            "window": window,
            "stride": stride,
            "scales": tuple(scales),
            "flip": flip,
            "fit": fit,
            "align_corners": align_corners,
        }

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        return class_map(self.model, pictures, **self.settings)

    def probabilities(self, pictures: np.ndarray) -> np.ndarray:
        """Probabilities: float32 `(H, W, num_classes)`, or `(B, H, W, num_classes)` of a batch."""
        return probabilities(self.model, pictures, **self.settings)

    def export(
        self,
        filepath: Path,
        output: str = "logits",
        input_dtype: str = "float32",
        verbose: bool | None = None,
    ) -> None:
        """Write one SavedModel that takes pictures of any size, windows and all.

        Beside pictures it takes the bytes of files, as that of `FsaNet.export` does.

        Args:
            filepath: the folder to write.
            output: `"logits"`, float32 `(B, H, W, num_classes)`: logarithms of the probabilities,
                whose softmax they are; or `"classes"`, uint8 `(B, H, W)`.
            input_dtype: `"float32"` or `"uint8"`.
            verbose: whether to say where the folder is. Default: True.

        Memory: at each scale one float32 array of the scaled picture's size and all classes, and
        another one while a window is added.

        Raises:
            ValueError, ImportError: as `FsaNet.export` for the format `"tf_saved_model"`.
        """
        model, settings = self.model, self.settings
        pictures = exporting.picture_spec(
            model, filepath, "tf_saved_model", None, output, input_dtype
        )
        if settings["window"]:
            # The model's own size is that of a window.
            pictures.shape = (None, None, None, model.image_shape[-1])

        def view(forward, pictures):
            return _log_probabilities(forward, pictures, model.num_classes, **settings)

        with exporting.written_at_once(filepath) as path:
            exporting.write_saved_model(path, model, pictures, output, view)
        if verbose or verbose is None:
            print(f"Saved the model at {str(filepath)!r}.")


def _log_probabilities(
    forward, pictures, num_classes, window, stride, scales, flip, fit, align_corners
):
    """`log(keras_fsa.inference.probabilities)` in the graph; `forward` gives a window's logits."""
    tf = optional_import("tensorflow", "tensorflow")
    window, stride = window_and_stride(window, stride)
    size = tf.shape(pictures)[1:3]
    # In float64, as in Python, or sizes would be rounded differently.
    exact_size = tf.cast(size, tf.float64)
    factor = 1.0
    if fit is not None:
        factor = tf.minimum(fit[0] / tf.reduce_max(exact_size), fit[1] / tf.reduce_min(exact_size))
    total = 0.0
    for scale in scales:
        scaled = tf.maximum(1, tf.cast(exact_size * factor * scale + 0.5, tf.int32))
        seen = _resize(pictures, scaled, align_corners=False)
        for mirrored in (False, True) if flip else (False,):
            view = tf.reverse(seen, [2]) if mirrored else seen
            logits = _window_logits(forward, view, num_classes, window, stride)
            result = tf.nn.softmax(_resize(logits, size, align_corners))
            total += tf.reverse(result, [2]) if mirrored else result
    views = len(scales) * (1 + flip)
    # The smallest float32 that no processor takes for zero.
    return tf.math.log(tf.maximum(total / views, np.finfo("float32").tiny))


def _window_logits(forward, pictures, num_classes, window, stride):
    """Logits `(B, H, W, num_classes)`: at every pixel the mean of the windows that hold it."""
    tf = optional_import("tensorflow", "tensorflow")
    size = tf.shape(pictures)[1:3]
    spans, starts, covers = [], [], []
    for axis in (0, 1):
        # No window is one of the picture's size, which then starts at 0 whatever the stride.
        span = size[axis] if window[axis] is None else tf.minimum(window[axis], size[axis])
        step = stride[axis] or 1
        last = size[axis] - span
        start = tf.minimum(tf.range(0, last + step, step), last)
        offset = tf.range(size[axis]) - start[:, None]
        spans.append(span)
        starts.append(start)
        covers.append(tf.reduce_sum(tf.cast((offset >= 0) & (offset < span), tf.float32), 0))

    def add_window(total, corner):
        end = corner + spans
        logits = forward(pictures[:, corner[0] : end[0], corner[1] : end[1]])
        around = tf.pad(tf.stack([corner, size - end], axis=1), [[1, 1], [0, 0]])
        return total + tf.pad(logits, around)

    corners = tf.reshape(tf.stack(tf.meshgrid(*starts, indexing="ij"), -1), (-1, 2))
    zeros = tf.zeros([tf.shape(pictures)[0], size[0], size[1], num_classes])
    # One by one: windows that run at the same time take the memory at the same time.
    total = tf.foldl(add_window, corners, zeros, parallel_iterations=1)
    return total / (covers[0][:, None, None] * covers[1][:, None])


def _resize(x, size, align_corners):
    """Bilinear without antialiasing, in the conventions of `keras_fsa.resize`; float32."""
    tf = optional_import("tensorflow", "tensorflow")
    return tf.raw_ops.ResizeBilinear(
        images=x, size=size, align_corners=align_corners, half_pixel_centers=not align_corners
    )
