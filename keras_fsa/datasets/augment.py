"""Random scale, crop, mirror image and colours for training, the same for a picture and its mask.

The steps and their order are those of mmsegmentation's pipelines (`Resize`, `RandomCrop`,
`RandomFlip`, `PhotoMetricDistortion`, `Pad`), which the paper's experiments use. Those of its ccnet
experiments come from other arguments:

```python
batches = training_batches(train, (769, 769), 8, seed, base_size=(2049, 1025))  # mmseg
batches = training_batches(  # ccnet
    train, (849, 849), 8, seed,
    scales=(0.7, 2.1), scale_step=0.1, max_class_share=1, photometric=False,
    pad_colour=(123, 117, 104),
)
```

All randomness is a function of the seed and of the number of the example in the stream: nothing
depends on threads or on what came before, so a killed training goes on exactly where it stopped.
Keras' augmentation layers (`RandomFlip`, `RandomCrop`) draw from a generator with a state instead,
and their crop needs a size that is known beforehand; hence stateless operations of TensorFlow.
"""

from typing import Any

from keras_fsa.arguments import optional_import, positive_int
from keras_fsa.metrics import IGNORE_LABEL
from keras_fsa.types import Dataset, Tensor

MEAN_COLOUR = (124, 116, 104)
"""ImageNet's mean colour, (123.675, 116.28, 103.53), in 8 bits."""

_TRIES = 10


def training_batches(
    dataset: Dataset,
    crop: tuple[int, int],
    batch: int,
    seed: int,
    start_step: int = 0,
    part: tuple[int, int] = (0, 1),
    **augmentation: Any,
) -> Dataset:
    """Endless shuffled, augmented batches of a data set.

    Example `p` of the stream belongs to epoch `p // n` of the `n` examples. The order of an epoch
    is a permutation of the whole data set that depends on the seed and the epoch only; what
    `augment` does to example `p` depends on the seed and on `p` only. Batches pass over the
    borders of epochs.

    Args:
        dataset: What `load` or `folder_dataset` returned, untransformed.
        crop: `(height, width)` of the examples.
        batch: Number of examples in a batch.
        seed: Int; the same seed gives the same stream.
        start_step: Number of batches to leave out at the start: the rest is exactly that of a
            stream from 0. What is left out is not read.
        part: `(i, n)` for the i-th of n equal parts of each batch, from 0: of several processes
            each reads its own. What belongs to other parts is not read.
        **augmentation: Further arguments of `augment`.

    Returns:
        An infinite `tf.data.Dataset` of `(images, masks)`, uint8 `(batch, height, width, 3)` and
        uint8 `(batch, height, width)`, the masks with 255 for ignored pixels. Decoding and
        augmentation run on the CPU in parallel, some batches ahead.

    Raises:
        ValueError: If an argument is out of its range.
    """
    tf = optional_import("tensorflow", "examples")
    if not hasattr(dataset, "keys"):
        raise ValueError(
            "`dataset` must be what load or folder_dataset returned, so that its examples can be "
            f"had in any order. Received: dataset={dataset}. Pass it before any map, shuffle, take "
            "or batch."
        )
    positive_int("batch", batch)
    for name, value in (("seed", seed), ("start_step", start_step)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(
                f"`{name}` must be an int of at least 0. Received: {name}={value!r}. Count from 0."
            )
    number, parts = part
    if not 0 <= number < parts or batch % parts:
        raise ValueError(
            "`part` must be (i, n), i from 0 to n - 1, with n a divisor of `batch`. Received: "
            f"part={part}, batch={batch}. Change one of them."
        )
    settings = _settings(crop, **augmentation)
    count, first = len(dataset), start_step * batch

    plain = tf.autograph.experimental.do_not_convert  # has nothing to translate

    def epoch_order(epoch):
        random = tf.random.stateless_uniform((count,), (seed, epoch))
        order = tf.cast(tf.argsort(random, stable=True), tf.int64)
        return tf.data.Dataset.from_tensor_slices(
            (order, epoch * count + tf.range(count, dtype=tf.int64))
        )

    def example(index, position):
        image, mask = dataset.read(*(tf.gather(part, index) for part in dataset.keys))
        # One stream of seeds shuffles, another augments.
        return _augment(image, mask, tf.stack([seed + 2**32, position]), settings)

    stream = tf.data.Dataset.range(first // count, tf.int64.max).flat_map(plain(epoch_order))
    stream = stream.skip(first % count)
    if parts > 1:
        stream = stream.batch(batch // parts).shard(parts, number).unbatch()
    stream = stream.map(plain(example), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return stream.batch(batch // parts, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def augment(
    image: Tensor, mask: Tensor, seed: Tensor, crop: tuple[int, int], **augmentation: Any
) -> tuple[Tensor, Tensor]:
    """A random piece of a picture and the piece of its mask that belongs to it.

    - Scale: a ratio is drawn from `scales`, evenly. Without `base_size` it is the scale. With it,
      the scale is the largest at which the picture fits into `base_size` times the ratio.
    - Crop: a window of the size `crop`, evenly among all. If more than `max_class_share` of its
      pixels, ignored ones left out, are of one class, another is drawn, up to 10 times.
    - Mirror image, left to right, with the probability `flip`.
    - Colours, if `photometric`: each with even odds, brightness by -32 to 32, contrast by 0.5 to
      1.5, saturation by 0.5 to 1.5, hue by -36 to 36 degrees; contrast before or after the others.
    - Where the scaled picture is smaller than `crop`, `pad_colour` and 255 fill right and bottom.
      mmsegmentation fills the normalised picture with 0 there, which is the mean colour.

    Pictures are scaled bilinearly, without antialiasing, as OpenCV does, masks to the nearest.

    Args:
        image: uint8 tensor `(height, width, 3)`.
        mask: uint8 tensor `(height, width)`.
        seed: Tensor of two ints; the same seed does the same.
        crop: `(height, width)` of the result.
        scales: Smallest and largest ratio.
        scale_step: If given, only ratios at this distance from each other, from the smallest on.
        base_size: `(long side, short side)` in pixels, or `None`.
        max_class_share: Between 0 and 1; 1 takes every window.
        flip: Probability of the mirror image.
        photometric: Whether to change colours.
        pad_colour: RGB of what the picture does not fill, 0 to 255.

    Returns:
        `(image, mask)`, uint8 `(*crop, 3)` and uint8 `crop`.

    Raises:
        ValueError: If an argument is out of its range.
    """
    tf = optional_import("tensorflow", "examples")
    run = tf.autograph.experimental.do_not_convert(_augment)
    return run(image, mask, seed, _settings(crop, **augmentation))


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
    rules = (
        ("crop", crop, "two positive ints, (height, width)", _two(crop, int)),
        ("scales", scales, "two positive numbers, the smaller first", _two(scales)),
        ("scale_step", scale_step, "positive or None", scale_step is None or scale_step > 0),
        (
            "base_size",
            base_size,
            "two positive numbers, the longer side first, or None",
            base_size is None or _two(base_size[::-1]),
        ),
        ("max_class_share", max_class_share, "above 0 and at most 1", 0 < max_class_share <= 1),
        ("flip", flip, "between 0 and 1", 0 <= flip <= 1),
        (
            "pad_colour",
            pad_colour,
            "three numbers from 0 to 255",
            len(pad_colour) == 3 and min(pad_colour) >= 0 and max(pad_colour) <= 255,
        ),
    )
    for name, value, rule, holds in rules:
        if not holds:
            raise ValueError(
                f"`{name}` must be {rule}. Received: {name}={value!r}. See help(augment)."
            )
    return {
        "crop": tuple(crop),
        "scales": scales,
        "scale_step": scale_step,
        "base_size": base_size,
        "max_class_share": max_class_share,
        "flip": flip,
        "photometric": photometric,
        "pad_colour": pad_colour,
    }


def _two(values, kind=(int, float)):
    """Whether these are two positive numbers; if floats are welcome, the smaller first."""
    right = len(values) == 2 and all(isinstance(value, kind) and value > 0 for value in values)
    return right and (kind is int or values[0] <= values[1])


def _augment(image, mask, seed, settings):
    tf = optional_import("tensorflow", "examples")
    crop = settings["crop"]
    image, mask = tf.convert_to_tensor(image), tf.convert_to_tensor(mask)
    seeds = tf.unstack(tf.random.split(seed, 4))
    old = tf.shape(mask)
    new = _scaled_size(old, seeds[0], settings)
    size = tf.minimum(new, crop)

    spare = tf.cast(new - size + 1, tf.float32)
    offsets = tf.random.stateless_uniform((_TRIES + 1, 2), seeds[1])
    offsets = tf.minimum(tf.cast(offsets * spare, tf.int32), new - size)

    def windows(number):
        return _window_of_mask(mask, new, size, offsets[number])

    number = tf.constant(0)
    if settings["max_class_share"] < 1:
        number = tf.while_loop(
            lambda i: (i < _TRIES) & ~_is_mixed(windows(i), settings["max_class_share"]),
            lambda i: [i + 1],
            [number],
        )[0]
    image = _window_of_image(image, old, new, size, offsets[number])
    mask = windows(number)

    mirrored = tf.random.stateless_uniform((), seeds[2]) < settings["flip"]
    image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
    mask = tf.cond(mirrored, lambda: tf.reverse(mask, [1]), lambda: mask)
    if settings["photometric"]:
        image = _photometric(image, seeds[3])

    # Padding the difference to the colour fills with that colour.
    border = [[0, crop[0] - size[0]], [0, crop[1] - size[1]]]
    colour = tf.cast(settings["pad_colour"], tf.float32)
    image = tf.pad(tf.round(image) - colour, [*border, [0, 0]]) + colour
    mask = tf.pad(mask, border, constant_values=IGNORE_LABEL)
    return (
        tf.ensure_shape(tf.cast(tf.round(image), tf.uint8), (*crop, 3)),
        tf.ensure_shape(mask, crop),
    )


def _scaled_size(old, seed, settings):
    """Height and width of the scaled picture."""
    tf = optional_import("tensorflow", "examples")
    (low, high), step = settings["scales"], settings["scale_step"]
    ratio = tf.random.stateless_uniform((), seed)
    if step is None:
        ratio = low + ratio * (high - low)
    else:
        choices = int((high - low) / step + 1.5)
        ratio = low + tf.floor(ratio * choices) * step
    sides = tf.cast(old, tf.float32)
    if settings["base_size"] is not None:
        long, short = (tf.floor(side * ratio) for side in settings["base_size"])
        ratio = tf.minimum(long / tf.reduce_max(sides), short / tf.reduce_min(sides))
    return tf.maximum(tf.cast(sides * ratio + 0.5, tf.int32), 1)


def _window_of_mask(mask, new, size, offset):
    """What `mask`, enlarged to the size `new`, shows in a window."""
    tf = optional_import("tensorflow", "examples")
    for axis in (0, 1):
        length = tf.shape(mask)[axis]
        places = tf.cast(offset[axis] + tf.range(size[axis]), tf.float32) + 0.5
        places = places * tf.cast(length, tf.float32) / tf.cast(new[axis], tf.float32)
        mask = tf.gather(mask, tf.minimum(tf.cast(places, tf.int32), length - 1), axis=axis)
    return mask


def _window_of_image(image, old, new, size, offset):
    """What `image`, enlarged to the size `new`, shows in a window; float32, 0 to 255.

    Only the part of the picture that is seen is resized.
    """
    tf = optional_import("tensorflow", "examples")
    scale = tf.cast(new, tf.float32) / tf.cast(old, tf.float32)
    first = (tf.cast(offset, tf.float32) + 0.5) / scale - 0.5
    last = (tf.cast(offset + size, tf.float32) - 0.5) / scale - 0.5
    start = tf.maximum(tf.cast(tf.floor(first), tf.int32) - 1, 0)
    stop = tf.minimum(tf.cast(tf.floor(last), tf.int32) + 3, old)
    part = image[start[0] : stop[0], start[1] : stop[1]]
    # The operation behind tf.image.resize, which cannot shift.
    return tf.raw_ops.ScaleAndTranslate(
        images=part[None],
        size=size,
        scale=scale,
        translation=tf.cast(start, tf.float32) * scale - tf.cast(offset, tf.float32),
        kernel_type="triangle",
        antialias=False,
    )[0]


def _is_mixed(mask, max_class_share):
    """Whether there are two classes at least, and none has more than its share."""
    tf = optional_import("tensorflow", "examples")
    ids = tf.cast(mask[mask != IGNORE_LABEL], tf.int32)
    counts = tf.math.bincount(ids, minlength=IGNORE_LABEL)
    share = tf.reduce_max(counts) / tf.maximum(tf.reduce_sum(counts), 1)
    return (tf.math.count_nonzero(counts) > 1) & (share < max_class_share)


def _photometric(image, seed):
    """Random brightness, contrast, saturation and hue of a float32 picture, 0 to 255."""
    tf = optional_import("tensorflow", "examples")
    does = tf.unstack(tf.random.stateless_uniform((5,), tf.random.split(seed, 2)[0]) < 0.5)
    by = tf.unstack(tf.random.stateless_uniform((4,), tf.random.split(seed, 2)[1]))

    def maybe(condition, image, change):
        return tf.cond(
            condition, lambda: tf.clip_by_value(change(image), 0.0, 255.0), lambda: image
        )

    def contrast(image):
        return image * (0.5 + by[1])

    image = maybe(does[0], image, lambda image: image + 64 * by[0] - 32)
    image = maybe(does[1] & does[2], image, contrast)
    image = maybe(
        does[3], image, lambda image: tf.image.adjust_saturation(image / 255, 0.5 + by[2]) * 255
    )
    # Whole steps of 2 degrees, as in OpenCV's 8-bit colours.
    hue = (tf.floor(by[3] * 36) - 18) / 180
    image = maybe(does[4], image, lambda image: tf.image.adjust_hue(image / 255, hue) * 255)
    return maybe(does[1] & ~does[2], image, contrast)
