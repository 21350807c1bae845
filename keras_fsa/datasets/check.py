"""Looks through a dataset, example by example, for what would spoil an expensive training."""

import numpy as np

from keras_fsa import _deprecation
from keras_fsa.arguments import boolean, positive_int
from keras_fsa.datasets.examples import Examples, in_order
from keras_fsa.metrics import IGNORE_LABEL


@_deprecation.renamed_arguments(dataset="examples")
def check(
    examples: Examples, num_classes: int, expected: int | None = None, fail_fast: bool = False
) -> tuple[np.ndarray, list[str]]:
    """Reads every example once and gathers what is wrong.

    Problems are: a number of examples other than the expected one, an example that cannot be read
    (a broken file, sizes of image and mask that differ, ids that are no label), and a mask of
    which every pixel is ignored.

    Args:
        examples: What `load` or `folder_dataset` (with `check=False`) returned.
        num_classes: Number of classes.
        expected: Number of examples there should be; `None` for any.
        fail_fast: Whether to stop after the first problem.

    Returns:
        `(pixels, problems)`: how many pixels each class has, int64 `(num_classes + 1,)` with the
        ignored ones last, and a list of problems in words.

    Raises:
        ValueError: If an argument is out of its range.
    """
    positive_int("num_classes", num_classes)
    boolean("fail_fast", fail_fast)
    problems = []
    if expected is not None and len(examples) != expected:
        problems.append(f"{len(examples)} examples, where {expected} are published")
    pixels = np.zeros(num_classes + 1, "int64")

    def read(index):
        try:
            _, mask = examples[index]
        except Exception as error:  # decoders raise errors of many kinds
            reason = [line for line in str(error).splitlines() if line.strip()]
            return None, f"{examples.name(index)}: {' '.join(reason)[:300]}"
        counts = np.bincount(mask.ravel(), minlength=256)
        if counts.sum() == counts[IGNORE_LABEL]:
            return None, f"{examples.name(index)}: every pixel of the mask is ignored"
        if wrong := [i for i in np.flatnonzero(counts[:IGNORE_LABEL]) if i >= num_classes]:
            shown = ", ".join(map(str, wrong[:5]))
            return None, f"{examples.name(index)}: ids beyond 0 to {num_classes - 1}: {shown}"
        return counts, None

    if not (fail_fast and problems):
        for counts, problem in in_order(read, range(len(examples))):
            if problem:
                problems.append(problem)
                if fail_fast:
                    break
            else:
                pixels[:-1] += counts[:num_classes]
                pixels[-1] += counts[IGNORE_LABEL]
    return pixels, problems
