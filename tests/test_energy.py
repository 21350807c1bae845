import numpy as np
import pytest

from keras_fsa.energy import energy_held, energy_shares
from tests import reference
from tests.helpers import array

HEIGHT, WIDTH = 7, 11


@pytest.mark.parametrize("without_mean", [False, True])
def test_shares_and_what_squares_of_them_hold(rng, without_mean):
    x = rng.standard_normal((HEIGHT, WIDTH, 3)).astype("float32") + 2
    rows, columns = reference.dct_basis(HEIGHT, 0, HEIGHT), reference.dct_basis(WIDTH, 0, WIDTH)
    energy = np.square(np.einsum("iu,ijc,jv->uvc", rows, x.astype("float64"), columns)).sum(-1)
    if without_mean:
        energy[0, 0] = 0
    shares = array(energy_shares(x, without_mean))
    # A handful of float32 roundings, of 6e-8 each, in sums that are at most one.
    np.testing.assert_allclose(shares, energy / energy.sum(), atol=1e-6)
    # Parseval: the sum of squares in space, about the mean or about zero.
    mean = x.mean((0, 1)) if without_mean else 0
    np.testing.assert_allclose(energy.sum(), np.square(x - mean).sum(), rtol=1e-6)
    held = array(energy_held(shares))
    expected = [energy[:k, :k].sum() / energy.sum() for k in range(1, HEIGHT + 1)]
    np.testing.assert_allclose(held, expected, atol=1e-6)


def test_a_single_wave_and_nothing_at_all():
    wave = reference.dct_basis(HEIGHT, 2, 3) @ reference.dct_basis(WIDTH, 4, 5).T
    shares = array(energy_shares(wave[..., None].astype("float32")))
    expected = np.zeros((HEIGHT, WIDTH))
    expected[2, 4] = 1
    np.testing.assert_allclose(shares, expected, atol=1e-6)
    assert not array(energy_shares(np.zeros((2, 3, 1), "float32"))).any()


def test_error():
    with pytest.raises(ValueError, match=r"one map \(H, W, C\). Received: .*\(1, 2, 3, 4\)"):
        energy_shares(np.zeros((1, 2, 3, 4), "float32"))
