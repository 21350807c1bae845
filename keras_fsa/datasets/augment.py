"""Random scale, crop, flip and colours for training, the same for an image and its mask.

The steps and their order are those of mmsegmentation's pipelines (`Resize`, `RandomCrop`,
`RandomFlip`, `PhotoMetricDistortion`, `Pad`), which the paper's experiments use. Those of its ccnet
experiments follow from other arguments:

```python
batches = training_batches(train, (769, 769), 8, seed, base_size=(2049, 1025))  # mmseg
batches = training_batches(  # ccnet
    train, (849, 849), 8, seed,
    scales=(0.7, 2.1), scale_step=0.1, max_class_share=1, photometric=False,
    pad_colour=(123, 117, 104),
)
model.fit(batches, steps_per_epoch=500, epochs=120)
```

All randomness is a function of the seed and of the number of the example in the stream: nothing
depends on threads or on what came before, so a training that was killed resumes exactly where it
stopped. Keras' augmentation layers draw from a stateful generator instead.

One pipeline serves every backend: NumPy and OpenCV in threads, which release Python's global lock.
"""

import functools
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np

from keras_fsa import _deprecation
from keras_fsa.arguments import boolean, integer, number, optional_import, positive_ints
from keras_fsa.datasets.examples import Batches, Examples, Pair, threads
from keras_fsa.images import MEAN_COLOUR
from keras_fsa.metrics import IGNORE_LABEL

PIPELINE = "keras_fsa.datasets.augment 2"
"""Changes whenever the same arguments give other batches than before, as in version 0.2: a training
that another pipeline began cannot resume exactly."""

_TRIES = 10


@_deprecation.renamed_arguments(dataset="examples")
def training_batches(
    examples: Examples,
    crop: tuple[int, int],
    batch: int,
    seed: int,
    start_step: int = 0,
    part: tuple[int, int] = (0, 1),
    **augmentation: Any,
) -> Batches:
    """Endless shuffled, augmented batches of a dataset, for `model.fit` on every backend.

    Example `p` of the stream belongs to epoch `p // n` of the `n` examples. The order of an epoch
    is a permutation of the whole dataset that depends on the seed and the epoch only; what
    `augment` does to example `p` depends on the seed and on `p` only. Batches cross the borders of
    epochs.

    Args:
        examples: `Examples`, as `load` and `folder_dataset` return them.
        crop: `(height, width)` of the crops, in pixels.
        batch: number of crops in a batch.
        seed: int of at least 0; the same seed gives the same stream.
        start_step: number of batches to leave out at the start: the rest is exactly that of a
            stream from 0. What is left out is not read.
        part: `(i, n)` for the i-th of n equal parts of each batch, from 0: of several processes
            each reads its own. What belongs to other parts is not read.
        **augmentation: further arguments of `augment`.

    Returns:
        A `keras.utils.PyDataset` without end: `batches[i]`, its i-th batch, and what iterating and
        `model.fit` (with `steps_per_epoch`) get, is `(images, masks)`, uint8 `(batch, *crop, 3)`
        and uint8 `(batch, *crop)`, with 255 for ignored pixels (or what `augment` makes of others).
        Threads decode and augment the
        examples of the next batches ahead, one thread for each core.

    Raises:
        ValueError: if an argument is out of its range; when a batch is read, if a file is damaged
            or a mask has ids that are no class. The error names the file and the ids.
        ImportError: if OpenCV is missing, with the pip command.
    """
    _opencv()
    if not isinstance(examples, Examples):
        raise ValueError(
            "`examples` must be Examples, as load and folder_dataset return them, so that they can "
            f"be read in any order. Received: examples={examples!r}. Pass them before any map, "
            "shuffle or batch."
        )
    if not len(examples):
        raise ValueError(
            "`examples` must hold at least one. Received: examples of length 0. Look at the folder "
            "of the dataset."
        )
    integer("batch", batch)
    integer("seed", seed, 0)
    integer("start_step", start_step, 0)
    own_part, parts = _checked_part(part, batch)
    settings = _settings(crop, **augmentation)
    count, own = len(examples), batch // parts
    first = start_step * batch + own_part * own

    @functools.lru_cache(maxsize=2)
    def order(epoch):
        # Of NumPy's random methods, this one is the least likely to change.
        return np.argsort(np.random.default_rng((seed, 0, epoch)).random(count), kind="stable")

    def read(task):
        position, index = task
        image, mask = examples[index]
        return _augment(image, mask, np.random.default_rng((seed, 1, position)), settings)

    def positions(step):
        start = first + step * batch
        return [
            (position, int(order(position // count)[position % count]))
            for position in range(start, start + own)
        ]

    return _Endless(positions, read, lambda task: examples.name(task[1]))


class _Endless(Batches):
    """Batches without end, whose examples are read ahead one by one."""

    _AHEAD = 2

    def __init__(self, positions, example, name):
        super().__init__(positions, example, None, name)
        self._pool = ThreadPoolExecutor(threads(), thread_name_prefix="training_batches")
        self._begun: dict[int, list[Future]] = {}
        self._lock = threading.Lock()
        # Also where Python ends, before what the pool needs for it is gone.
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    def _pairs(self, index):
        wanted = range(index, index + 1 + self._AHEAD)
        with self._lock:
            for step in [step for step in self._begun if step not in wanted]:
                for future in self._begun.pop(step):
                    future.cancel()
            for step in wanted:
                if step not in self._begun:
                    positions = self._positions(step)
                    self._begun[step] = [
                        self._pool.submit(self._example, position) for position in positions
                    ]
            mine = self._begun.pop(index)
        return [future.result() for future in mine]


def augment(
    image: np.ndarray,
    mask: np.ndarray,
    seed: int | Sequence[int],
    crop: tuple[int, int],
    **augmentation: Any,
) -> Pair:
    """A random crop of an image and the crop of its mask that belongs to it.

    - Scale: a ratio is drawn evenly from `scales`. Without `base_size` it is the scale. With it,
      the scale is the largest at which the image fits into `base_size` times the ratio.
    - Crop: a window of the size `crop`, evenly among all. If more than `max_class_share` of its
      pixels, ignored ones left out, are of one class, another is drawn, up to 10 times.
    - Flip, left to right, with the probability `flip`.
    - Colours, if `photometric`: each with even odds, brightness by -32 to 32, contrast by 0.5 to
      1.5, saturation by 0.5 to 1.5, hue by -36 to 36 degrees; contrast before or after the others.
    - Where the scaled image is smaller than `crop`, `pad_colour` and 255 fill right and bottom.
      mmsegmentation fills the normalised image with 0 there, which is the mean colour.

    Images of other channels or types are filled with their own mean, and keep their type; their
    colours do not vary. Of masks `(height, width, num_classes)` every window is taken.

    Images are scaled bilinearly, without antialiasing, masks to the nearest neighbour: pixel `x` of
    the scaled image shows the place `(x + 0.5) / scale - 0.5` of the image.

    Args:
        image: array `(height, width, channels)`, uint8, uint16 or float32.
        mask: uint8 array `(height, width)`, or `(height, width, num_classes)` of 0 and 1.
        seed: int, or a sequence of ints; the same seed does the same.
        crop: `(height, width)` of the result.
        scales: smallest and largest ratio. Default: 0.5 and 2.
        scale_step: if given, only ratios at this distance from each other, from the smallest on.
        base_size: `(long side, short side)` in pixels, or None, the default.
        max_class_share: above 0 and at most 1, which takes every window. Default: 0.75.
        flip: probability of flipping. Default: 0.5.
        photometric: whether to change colours. Default: yes.
        pad_colour: RGB of what the image does not fill, 0 to 255. Default: ImageNet's mean.

    Returns:
        `(image, mask)`, such as uint8 `(*crop, 3)` and uint8 `crop`.

    Raises:
        ValueError: if an argument is out of its range, or image and mask do not belong together.
        ImportError: if OpenCV is missing, with the pip command.
    """
    settings = _settings(crop, **augmentation)
    image, mask = np.asarray(image), np.asarray(mask)
    if (
        image.dtype not in ("uint8", "uint16", "float32")
        or mask.dtype != "uint8"
        or image.ndim != 3
        or mask.ndim not in (2, 3)
        or image.shape[:2] != mask.shape[:2]
    ):
        raise ValueError(
            "`image` must be (height, width, channels) of uint8, uint16 or float32, and `mask` "
            "uint8 (height, width), or (height, width, num_classes). Received: "
            f"image {image.dtype} {image.shape}, mask {mask.dtype} {mask.shape}. Convert them."
        )
    return _augment(image, mask, np.random.default_rng(seed), settings)


def _opencv() -> ModuleType:
    return optional_import("cv2", "tools")


def _checked_part(part, batch):
    valid = isinstance(part, (tuple, list)) and len(part) == 2
    valid = valid and all(isinstance(value, (int, np.integer)) for value in part)
    if not valid or not 0 <= part[0] < part[1] or batch % part[1]:
        raise ValueError(
            "`part` must be (i, n), i from 0 to n - 1, with n a divisor of `batch`. Received: "
            f"part={part}, batch={batch}. Change one of them."
        )
    return part


def _settings(
    crop,
    scales=(0.5, 2.0),
    scale_step=None,
    base_size=None,
    max_class_share=0.75,
    flip=0.5,
    photometric=True,
    pad_colour=MEAN_COLOUR,
):
    """The arguments of `augment`, checked."""
    positive_ints("crop", crop, 2)
    _ascending("scales", scales, "two positive numbers, the smaller first")
    number("scale_step", scale_step, above=0, optional=True)
    if base_size is not None:
        swapped = base_size[::-1] if isinstance(base_size, (tuple, list)) else base_size
        _ascending(
            "base_size", swapped, "two positive numbers, the longer side first, or None", base_size
        )
    number("max_class_share", max_class_share, above=0, maximum=1)
    number("flip", flip, 0, 1)
    boolean("photometric", photometric)
    if not _numbers(pad_colour, 3) or min(pad_colour) < 0 or max(pad_colour) > 255:
        raise ValueError(
            "`pad_colour` must be three numbers from 0 to 255. Received: pad_colour="
            f"{pad_colour!r}. Give red, green and blue."
        )
    return {
        "crop": tuple(crop),
        "scales": scales,
        "scale_step": scale_step,
        "base_size": base_size,
        "max_class_share": max_class_share,
        "flip": flip,
        "photometric": photometric,
        "pad_colour": np.rint(pad_colour).astype("uint8"),
    }


def _ascending(name, values, rule, shown=None):
    if not _numbers(values, 2) or not 0 < values[0] <= values[1]:
        raise ValueError(
            f"`{name}` must be {rule}. Received: {name}={values if shown is None else shown!r}. "
            "See help(augment)."
        )


def _numbers(values, count):
    return (
        isinstance(values, (tuple, list, np.ndarray))
        and len(values) == count
        and all(isinstance(value, (int, float, np.number)) for value in values)
        and bool(np.isfinite(np.asarray(values, "float64")).all())
    )


def _augment(image, mask, random, settings):
    crop = settings["crop"]
    # All that may be drawn is drawn, so that each number has its place whatever the settings.
    ratio, flip, *colours = random.random(11)
    places = random.random((_TRIES + 1, 2))

    old = mask.shape[:2]
    new = _scaled_size(old, ratio, settings)
    size = np.minimum(new, crop)
    offsets = np.minimum((places * (new - size + 1)).astype(int), new - size)
    share = 1 if mask.ndim == 3 else settings["max_class_share"]
    for offset in offsets:
        window = _window_of_mask(mask, new, size, offset)
        if share == 1 or _is_mixed(window, share):
            break
    image = _window_of_image(image, old, new, size, offset)
    is_rgb = image.dtype == np.uint8 and image.shape[-1] == 3
    if settings["photometric"] and is_rgb:
        image = _photometric(image, colours[:5], colours[5:])
    step = -1 if flip < settings["flip"] else 1

    height, width = size
    whole = np.empty((*crop, image.shape[-1]), image.dtype)
    filling = settings["pad_colour"] if is_rgb else image.mean(axis=(0, 1))
    whole[height:] = whole[:height, width:] = filling
    whole[:height, :width] = image[:, ::step]
    labels = np.full((*crop, *mask.shape[2:]), IGNORE_LABEL, "uint8")
    labels[:height, :width] = window[:, ::step]
    return whole, labels


def _scaled_size(old, ratio, settings):
    """Height and width of the scaled image, for a random number `ratio` of 0 to 1."""
    (low, high), step = settings["scales"], settings["scale_step"]
    if step is None:
        ratio = low + ratio * (high - low)
    else:
        ratio = low + int(ratio * int((high - low) / step + 1 + 1e-6)) * step
    if settings["base_size"] is not None:
        long, short = (int(side * ratio) for side in settings["base_size"])
        ratio = min(long / max(old), short / min(old))
    return np.maximum((np.array(old) * ratio + 0.5).astype(int), 1)


def _window_of_mask(mask, new, size, offset):
    """What `mask`, resized to the size `new`, shows in a window."""
    rows, columns = (
        # floor((x + 0.5) * length / new), in whole numbers.
        (2 * np.arange(offset[axis], offset[axis] + size[axis]) + 1)
        * mask.shape[axis]
        // (2 * new[axis])
        for axis in (0, 1)
    )
    return mask[rows][:, columns]


def _window_of_image(image, old, new, size, offset):
    """What `image`, resized to the size `new`, shows in a window; only the part seen is resized."""
    cv2, channels = _opencv(), image.shape[-1]
    scale = new / np.array(old)
    first = (offset + 0.5) / scale - 0.5
    last = (offset + size - 0.5) / scale - 0.5
    start = np.maximum(np.floor(first).astype(int) - 1, 0)
    stop = np.minimum(np.floor(last).astype(int) + 3, old)
    # Resizing cannot shift; the matrix gives the place (x, y) in the part of each pixel.
    (top, left), (down, right) = first - start, 1 / scale
    window = cv2.warpAffine(
        image[start[0] : stop[0], start[1] : stop[1]],
        np.array([[right, 0, left], [0, down, top]]),
        (int(size[1]), int(size[0])),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    # OpenCV drops an axis of one channel.
    return window.reshape(*window.shape[:2], channels)


def _is_mixed(mask, max_class_share):
    """Whether there are two classes at least, and none has more than its share."""
    counts = _opencv().calcHist([mask], [0], None, [256], [0, 256]).ravel()[:IGNORE_LABEL]
    return np.count_nonzero(counts) > 1 and counts.max() < max_class_share * counts.sum()


def _photometric(image, odds, amounts):
    """Brightness, contrast, saturation and hue of a uint8 image, by nine numbers of 0 to 1."""
    brighten, contrast, contrast_first, saturate, turn = (value < 0.5 for value in odds)
    if not (brighten or contrast or saturate or turn):
        return image
    cv2 = _opencv()
    image = image.astype("float32")

    def change_contrast():
        np.multiply(image, np.float32(0.5 + amounts[1]), out=image)
        np.clip(image, 0, 255, out=image)

    if brighten:
        np.add(image, np.float32(64 * amounts[0] - 32), out=image)
        np.clip(image, 0, 255, out=image)
    if contrast and contrast_first:
        change_contrast()
    if saturate or turn:
        hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
        if saturate:
            np.minimum(saturation * np.float32(0.5 + amounts[2]), 1, out=saturation)
        if turn:
            # Whole steps of 2 degrees, as in OpenCV's 8-bit colours.
            np.add(hue, np.float32(2 * int(amounts[3] * 36) - 36), out=hue)
            hue[hue < 0] += 360
            hue[hue >= 360] -= 360
        image = cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB)
        np.clip(image, 0, 255, out=image)
    if contrast and not contrast_first:
        change_contrast()
    return np.rint(image, out=image).astype("uint8")
