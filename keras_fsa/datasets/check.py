"""Looks through a data set, example by example, for what would spoil an expensive training."""

from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.metrics import IGNORE_LABEL
from keras_fsa.types import Dataset


def check(
    dataset: Dataset, num_classes: int, expected: int | None = None, fail_fast: bool = False
) -> tuple[np.ndarray, list[str]]:
    """Reads every example once and gathers what is wrong.

    Wrong are: a number of examples other than the expected one, an example that cannot be read
    (a broken file, sizes of picture and mask that differ, ids that are no label), and a mask of
    which every pixel is ignored.

    Args:
        dataset: What `load` or `folder_dataset` (with `check=False`) returned.
        num_classes: Number of classes.
        expected: Number of examples there should be; `None` for any.
        fail_fast: Whether to stop after the first problem.

    Returns:
        `(pixels, problems)`: how many pixels each class has, int64 `(num_classes + 1,)` with the
        ignored ones last, and a list of problems in words.
    """
    count = len(dataset)
    problems = []
    if expected is not None and count != expected:
        problems.append(f"{count} examples, where {expected} are published")
    pixels = np.zeros(num_classes + 1, "int64")

    tf = optional_import("tensorflow", "examples")

    def read(index):
        try:
            # Outside a graph, where TensorFlow's errors are those of the function itself.
            with tf.device("CPU"):
                _, mask = dataset.read(*(part[index] for part in dataset.keys))
        except Exception as error:  # decoders raise errors of many kinds
            reason = [line for line in str(error).splitlines() if line.strip()]
            return None, f"{dataset.name(index)}: {' '.join(reason)[:300]}"
        counts = np.bincount(np.asarray(mask).ravel(), minlength=256)
        if counts.sum() == counts[IGNORE_LABEL]:
            return None, f"{dataset.name(index)}: every pixel of the mask is ignored"
        return counts, None

    with ThreadPoolExecutor() as pool:
        indices = iter(range(count))
        # In portions, so that an early stop leaves the rest unread.
        while (portion := list(islice(indices, 64))) and not (fail_fast and problems):
            for counts, problem in pool.map(read, portion):
                if problem:
                    problems.append(problem)
                else:
                    pixels[:-1] += counts[:num_classes]
                    pixels[-1] += counts[IGNORE_LABEL]
    return pixels, problems[:1] if fail_fast else problems
