"""Pairs of image and mask that are read by number, and batches of them.

Shuffling a whole epoch, and resuming in the middle of one, both need example 4711 without reading
those before it. So a dataset is a `Sequence` of examples, not a stream: `Examples` knows how many
there are, reads any of them on demand, and says what people know it by.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from keras_fsa import _deprecation
from keras_fsa.arguments import boolean, integer, number, optional_import
from keras_fsa.types import Dataset

Pair = tuple[np.ndarray, np.ndarray]
"""An image `(height, width, channels)`, uint8 or of the type that its file stores; and its mask,
uint8 `(height, width)`, or `(height, width, num_classes)` where a pixel may be of several classes.
"""

# What `tf.data.Dataset` offers and earlier versions returned.
_TF_DATA = frozenset(
    "apply as_numpy_iterator cache cardinality concatenate element_spec enumerate filter flat_map "
    "map options padded_batch prefetch reduce repeat shard shuffle skip take unbatch "
    "with_options".split()
)


class _AsBefore:
    """What was a `tf.data.Dataset` still has that class's methods, with a warning."""

    def __getattr__(self, name):
        if name not in _TF_DATA:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        _deprecation.warn(f"The method `{name}` of tf.data", f"as_tf_dataset().{name}")
        return getattr(self.as_tf_dataset(), name)


class Examples(_AsBefore, Sequence):
    """A sequence of pairs of image and mask, read on demand.

    ```python
    image, mask = examples[4711]             # uint8 (height, width, 3), uint8 (height, width)
    examples.name(4711)                      # "images/train/0815.jpg"
    few = examples[:100]                     # Examples again, as are take(100) and skip(100)
    model.fit(examples.batch(8, shuffle=True), validation_data=few.batch(8))
    dataset = examples.as_tf_dataset()       # a tf.data.Dataset, where TensorFlow is installed
    ```

    Iterating reads ahead in threads. Methods of `tf.data.Dataset` (`map`, `shuffle`, `prefetch`
    and so on), whose objects earlier versions returned, still work but are deprecated: call them
    on `as_tf_dataset()`.

    Args:
        count: number of examples.
        read: function from a number, 0 to `count - 1`, to `(image, mask)`. It is called from
            several threads.
        name: function from a number to what people know the example by, such as a file name.
        size: `(height, width)` that all examples have, or None if they differ.
    """

    def __init__(
        self,
        count: int,
        read: Callable[[int], Pair],
        name: Callable[[int], str] = str,
        size: tuple[int, int] | None = None,
    ) -> None:
        integer("count", count, 0)
        self._numbers, self._read, self._name, self.size = range(count), read, name, size

    def __len__(self):
        return len(self._numbers)

    def __getitem__(self, index):
        numbers = self._numbers[index]
        if isinstance(numbers, range):
            return self._subset(numbers)
        return self._read(numbers)

    def __iter__(self):
        return in_order(self._read, self._numbers)

    def __repr__(self):
        return f"<Examples: {len(self)}, size={self.size}>"

    def name(self, index: int) -> str:
        """What people know an example by, such as the path of its image."""
        return self._name(self._numbers[index])

    def take(self, count: int) -> "Examples":
        """The first `count` examples; all, where there are fewer or `count` is -1."""
        integer("count", count, -1)
        return self if count == -1 else self[:count]

    def skip(self, count: int) -> "Examples":
        """All but the first `count` examples."""
        integer("count", count, 0)
        return self[count:]

    def transform(
        self, function: Callable[..., Pair], size: tuple[int, int] | None = None
    ) -> "Examples":
        """The examples after a function, which is called when one is read.

        Args:
            function: function of the NumPy arrays `(image, mask)` that returns two such arrays.
            size: `(height, width)` of all that it returns, or None if they differ.
        """
        part = self._subset(self._numbers)
        part._read, part.size = lambda number: function(*self._read(number)), size
        return part

    def in_memory(self, gigabytes: float = 4.0) -> "Examples":
        """The examples, each read once and then kept: later epochs neither decode nor resize.

        Args:
            gigabytes: memory for them, in units of 1e9 bytes. Those that no longer fit are read
                each time.

        Returns:
            `Examples` whose arrays are read-only, since everybody gets the same ones.
        """
        number("gigabytes", gigabytes, above=0)
        kept: dict[int, Pair] = {}
        left = [int(1e9 * gigabytes)]
        lock = threading.Lock()
        # Threads that ask for the same example at once wait for the first of them.
        reading: dict[int, threading.Lock] = {}

        def read(index):
            with lock:
                mine = reading.setdefault(index, threading.Lock())
            with mine:
                if index in kept:
                    return kept[index]
                # Views, since whoever made the arrays may write to them.
                image, mask = self._read(index)
                pair = image.view(), mask.view()
                size = sum(part.nbytes for part in pair)
                with lock:
                    if size <= left[0]:
                        left[0] -= size
                        for part in pair:
                            part.setflags(write=False)
                        kept[index] = pair
                return pair

        part = self._subset(self._numbers)
        part._read = read
        return part

    def batch(
        self,
        batch_size: int,
        drop_remainder: bool = False,
        shuffle: bool = False,
        seed: int = 0,
    ) -> Any:
        """Batches for `fit`, `evaluate` and `predict`, on every backend.

        Args:
            batch_size: number of examples in a batch. They must be of one size.
            drop_remainder: whether a last, smaller batch is left out.
            shuffle: whether each epoch has another order, which depends on the seed and, between
                TensorFlow and the others, on the backend.
            seed: int of at least 0.

        Returns:
            What `fit` of the present backend reads best: under TensorFlow a `tf.data.Dataset`,
            under JAX and torch a `keras.utils.PyDataset`, of `(images, masks)`.
        """
        integer("batch_size", batch_size)
        boolean("drop_remainder", drop_remainder)
        boolean("shuffle", shuffle)
        integer("seed", seed, 0)
        if keras.backend.backend() != "tensorflow":
            return _Epochs(self, batch_size, drop_remainder, shuffle, seed)
        # Keras makes a tf.data.Dataset of other data, and settles its shapes by two batches.
        tf = optional_import("tensorflow", "tensorflow")
        batches = self._as_tf_dataset(seed if shuffle else None).batch(batch_size, drop_remainder)
        return batches.prefetch(tf.data.AUTOTUNE)

    def as_tf_dataset(self) -> Dataset:
        """A `tf.data.Dataset` of `(image, mask)`, of known cardinality and in the same order.

        Raises:
            ImportError: if TensorFlow is missing, with the pip command.
        """
        return self._as_tf_dataset()

    def _as_tf_dataset(self, shuffle_seed=None):
        tf = optional_import("tensorflow", "tensorflow")

        # Channels and types are those of the first example.
        first = self[0] if len(self) else (np.zeros((1, 1, 3), "uint8"), np.zeros((1, 1), "uint8"))

        def read(index):
            parts = tf.numpy_function(
                lambda index: self[int(index)],
                [index],
                [part.dtype for part in first],
                stateful=False,
            )
            size = self.size or (None, None)
            image, mask = (
                tf.ensure_shape(part, (*size, *like.shape[2:]))
                for part, like in zip(parts, first, strict=True)
            )
            return image, mask

        with tf.device("CPU"):
            numbers = tf.data.Dataset.range(len(self))
            if shuffle_seed is not None:
                numbers = numbers.shuffle(len(self), shuffle_seed)
            return numbers.map(read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _subset(self, numbers):
        part = Examples(0, self._read, self._name, self.size)
        part._numbers = numbers
        return part


class Batches(_AsBefore, keras.utils.PyDataset):
    """Batches of examples for `fit`, `evaluate` and `predict` of Keras, on every backend.

    Args:
        positions: function from the number of a batch to the list of the positions of its examples.
        example: function from a position to `(image, mask)`, called from several threads.
        num_batches: number of batches, or None for endless ones.
        name: function from a position to what people know the example by, for errors.
        workers: number of threads of Keras that read batches ahead.
    """

    def __init__(
        self,
        positions: Callable[[int], Sequence[int]],
        example: Callable[[int], Pair],
        num_batches: int | None,
        name: Callable[[int], str] = str,
        workers: int = 1,
    ) -> None:
        super().__init__(workers=workers, max_queue_size=workers)
        self._positions, self._example, self._name = positions, example, name
        self._num_batches = num_batches

    @property
    def num_batches(self) -> int | None:
        """Number of batches, None for endless ones."""
        return self._num_batches

    def __getitem__(self, index):
        if index < 0 or (self.num_batches is not None and index >= self.num_batches):
            raise IndexError(f"Received: batch {index} of {self.num_batches}.")
        pairs = self._pairs(index)
        shapes = [image.shape for image, _ in pairs]
        if len(set(shapes)) > 1:
            odd = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            first, other = (self._name(self._positions(index)[i]) for i in (0, odd))
            raise ValueError(
                f"The images of a batch must be of one size. Received: {first} of shape "
                f"{shapes[0]} and {other} of shape {shapes[odd]}. Pass `size` to folder_dataset, "
                "or use batches of one."
            )
        images, masks = zip(*pairs, strict=True)
        return np.stack(images), np.stack(masks)

    def _pairs(self, index):
        return [self._example(position) for position in self._positions(index)]

    def as_tf_dataset(self) -> Dataset:
        """A `tf.data.Dataset` of the same batches."""
        tf = optional_import("tensorflow", "tensorflow")
        dataset = generated(lambda: iter(self), lambda shape: (None, *shape[1:]))
        count = tf.data.INFINITE_CARDINALITY if self.num_batches is None else self.num_batches
        return dataset.apply(tf.data.experimental.assert_cardinality(count))


class _Epochs(Batches):
    """All examples in batches, in the same order in each epoch or in another."""

    def __init__(self, examples, batch_size, drop_remainder, shuffle, seed):
        self._order, self._shuffle = np.arange(len(examples)), shuffle
        self._random = np.random.default_rng(seed)
        if shuffle:
            self._random.shuffle(self._order)
        count, rest = divmod(len(examples), batch_size)
        super().__init__(
            lambda index: self._order[index * batch_size : (index + 1) * batch_size].tolist(),
            examples.__getitem__,
            count + (rest > 0 and not drop_remainder),
            examples.name,
            workers=threads(),
        )

    def __len__(self):
        return self.num_batches

    def on_epoch_end(self):
        """Change the order, where it is shuffled."""
        if self._shuffle:
            self._order = self._random.permutation(self._order)


def generated(
    batches: Callable[[], Iterator[Pair]], shape: Callable[[tuple[int, ...]], tuple]
) -> Dataset:
    """A `tf.data.Dataset` of images and masks, of the types of the first ones.

    Args:
        batches: function that returns an iterator of them, anew for each iteration.
        shape: function from the shape of the first to that of all, with None for what varies.

    Raises:
        ImportError: if TensorFlow is missing, with the pip command.
    """
    tf = optional_import("tensorflow", "tensorflow")
    first = next(batches())
    types = [keras.backend.standardize_dtype(part.dtype) for part in first]

    def checked():
        for batch in batches():
            for part, first_type in zip(batch, types, strict=True):
                # TensorFlow would let the values wrap around.
                if not np.can_cast(keras.backend.standardize_dtype(part.dtype), first_type):
                    raise TypeError(
                        "All images must be of the type of the first, or fit into it. Received: "
                        f"{part.dtype} after {first_type}. Save them in one type."
                    )
            yield batch

    signature = tuple(
        tf.TensorSpec(shape(np.shape(part)), of) for part, of in zip(first, types, strict=True)
    )
    return tf.data.Dataset.from_generator(checked, output_signature=signature)


def in_order(function: Callable[[Any], Any], items: Iterable) -> Iterator:
    """The results of a function, called from threads some items ahead, in the order of the items.

    Image decoders and NumPy release Python's global lock, so threads keep all cores busy.
    """
    ahead = 2 * threads()
    with ThreadPoolExecutor(threads(), thread_name_prefix="examples") as pool:
        waiting: list[Future] = []
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def threads() -> int:
    """Number of threads to read with: the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
