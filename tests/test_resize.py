import numpy as np
import pytest
from keras import ops

from keras_fsa.resize import resize_bilinear
from tests.helpers import array


def along(x, new_size, axis, align_corners):
    """Linear interpolation with NumPy's own function, one axis at a time."""
    size = x.shape[axis]
    j = np.arange(new_size)
    if align_corners:
        position = j * (size - 1) / max(new_size - 1, 1)
    else:
        position = (j + 0.5) * size / new_size - 0.5
    interpolate = lambda line: np.interp(position, np.arange(size), line)  # noqa: E731
    return np.apply_along_axis(interpolate, axis, x)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("size", "new", "step"),
    [
        *((-(-new // stride), new, stride) for stride in (1, 2, 4, 8, 16) for new in (33, 64, 95)),
        (23, 353, 16), (23, 368, 16), (2, 24, 16), (97, 769, 8), (1, 9, 1), (1, 1, 1),
        # Of no power of two: the ratio of the sizes.
        (16, 224, 14), (5, 13, 13 / 5), (7, 4, 4 / 7), (8, 4, 0.5),
    ],
)  # fmt: skip
def test_the_distance_of_positions_is_the_stride(rng, size, new, step, known):
    x = rng.standard_normal((1, size, 2, 3))
    at = (np.arange(new) + 0.5) / step - 0.5
    expected = np.stack(
        [np.interp(at, range(size), line) for line in x[0].transpose(1, 2, 0).reshape(6, size)], -1
    ).reshape(1, new, 2, 3)
    height = new if known else ops.convert_to_tensor(new, "int32")
    y = resize_bilinear(ops.convert_to_tensor(x, "float32"), height, 2, align_corners=None)
    np.testing.assert_allclose(array(y), expected, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(17, 29), (3, 4), (1, 1), (5, 7)])
@pytest.mark.parametrize("known", [True, False])
def test_resize(rng, size, align_corners, known):
    x = rng.standard_normal((2, 5, 7, 3))
    expected = along(along(x, size[0], 1, align_corners), size[1], 2, align_corners)
    new = size if known else [ops.convert_to_tensor(n, "int32") for n in size]
    y = resize_bilinear(ops.convert_to_tensor(x, "float32"), *new, align_corners=align_corners)
    assert tuple(y.shape) == (2, *size, 3)
    np.testing.assert_allclose(array(y), expected, atol=2e-6)


def test_a_constant_stays():
    y = resize_bilinear(ops.full((1, 97, 65, 1), 3.0), 769, 513, align_corners=True)
    np.testing.assert_allclose(array(y), 3, rtol=1e-6)
