import numpy as np
import pytest
from keras import ops

from keras_fsa import spectral
from tests import reference
from tests.helpers import array

BAND = ((1, 4), (2, 7))


@pytest.mark.parametrize("size", [1, 2, 7, 97, 385])
def test_basis_is_the_formula_rounded_once(size):
    basis = array(spectral.dct_basis(size, size, "float32"))
    # Half a unit of float32, and float64's error in the reference's cosines of many turns.
    np.testing.assert_allclose(basis, reference.dct_basis(size, 0, size), rtol=6e-8, atol=1e-13)


def test_basis_is_orthonormal():
    basis = array(spectral.dct_basis(97, 97))
    # 97 products of float32 numbers of at most sqrt(2/97).
    np.testing.assert_allclose(basis.T @ basis, np.eye(97), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 7, 97, 385])
def test_basis_of_an_unknown_size_is_the_same(size):
    basis = array(spectral.dct_basis(ops.convert_to_tensor(size, "int32"), (0, size)))
    assert basis.shape == (size, size)
    np.testing.assert_allclose(basis, reference.dct_basis(size, 0, size), atol=2e-7)


def test_basis_is_zero_at_and_beyond_the_size():
    for basis in (
        spectral.dct_basis(5, (3, 12), strict=False),
        spectral.dct_basis(ops.convert_to_tensor(5, "int32"), (3, 12)),
    ):
        basis = array(basis)
        assert np.all(np.any(basis[:, :2] != 0, axis=0))
        np.testing.assert_array_equal(basis[:, 2:], 0)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_analysis_and_synthesis(rng, data_format):
    x = rng.standard_normal((2, 7, 11, 3))
    d_h, d_w = reference.dct_basis(7, 1, 4), reference.dct_basis(11, 2, 7)
    expected = np.einsum("bhwc,hu,wv->buvc", x, d_h, d_w)
    back = np.einsum("buvc,hu,wv->bhwc", expected, d_h, d_w)
    order = (0, 1, 2, 3) if data_format == "channels_last" else (0, 3, 1, 2)
    x = ops.convert_to_tensor(x.transpose(order), "float32")
    tokens = spectral.analysis(x, BAND, data_format)
    assert tokens.shape == (2, 15, 3)
    # Sums of 77 float32 products of order one.
    np.testing.assert_allclose(array(tokens), expected.reshape(2, 15, 3), atol=2e-6)
    y = spectral.synthesis(tokens, 7, 11, BAND, data_format)
    np.testing.assert_allclose(array(y), back.transpose(order), atol=2e-6)
    low = spectral.low_pass(x, BAND, data_format)
    np.testing.assert_allclose(array(low), back.transpose(order), atol=2e-6)


def test_all_frequencies_keep_the_map(rng):
    x = rng.standard_normal((1, 13, 7, 2)).astype("float32")
    np.testing.assert_allclose(array(spectral.low_pass(x, (13, 7))), x, atol=2e-6)


def test_half_precision_maps_have_float32_tokens():
    # The constant token of this map is 67 900, beyond float16.
    x = ops.full((1, 97, 97, 1), 700.0, dtype="float16")
    tokens = array(spectral.analysis(x, 1))
    assert tokens.dtype == "float32"
    np.testing.assert_allclose(tokens.ravel(), 67900, rtol=1e-6)
    low = spectral.low_pass(x, 3)
    assert "float16" in str(low.dtype)
    np.testing.assert_allclose(array(low), 700, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_the_low_pass_of_integers_goes_beyond_them(dtype):
    x = np.zeros((1, 7, 8, 1), dtype)
    x[:, :, 4:] = 255
    low = array(spectral.low_pass(ops.convert_to_tensor(x), (2, 3)))
    assert low.dtype == "float32" and low.min() < -10
    np.testing.assert_allclose(
        low, array(spectral.low_pass(x.astype("float32"), (2, 3))), atol=1e-4
    )


def test_moments_are_those_of_the_map(rng):
    tokens = ops.convert_to_tensor(rng.standard_normal((3, 15, 4)) + 5, "float32")
    x = array(spectral.synthesis(tokens, 7, 11, (3, 5))).astype("float64")
    mean, variance = spectral.moments(tokens, 77)
    np.testing.assert_allclose(array(mean), x.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(array(variance), x.var(axis=(0, 1, 2)), rtol=1e-5)


def test_moments_do_not_cancel(rng):
    # A map of 1000 with ripples of 0.001: the difference of squares would be lost in float32.
    tokens = 1e-3 * np.sqrt(77) * rng.standard_normal((1, 4, 1))
    tokens[:, 0] = 1000 * np.sqrt(77)
    _, variance = spectral.moments(ops.convert_to_tensor(tokens, "float32"), 77)
    np.testing.assert_allclose(array(variance)[0], (tokens[:, 1:] ** 2).sum() / 77, rtol=1e-5)


def test_add_constant(rng):
    tokens = ops.convert_to_tensor(rng.standard_normal((2, 6, 3)), "float32")
    constant = np.array([1.0, -2.0, 0.5], "float32")
    before = array(spectral.synthesis(tokens, 7, 11, (2, 3)))
    after = spectral.synthesis(spectral.add_constant(tokens, constant, 77), 7, 11, (2, 3))
    np.testing.assert_allclose(array(after), before + constant, atol=2e-6)


@pytest.mark.parametrize(
    ("frequencies", "band"),
    [
        (8, ((0, 8), (0, 8))),
        ((3, 5), ((0, 3), (0, 5))),
        ([[1, 3], [2, 5]], ((1, 3), (2, 5))),
        (np.int64(4), ((0, 4), (0, 4))),
    ],
)
def test_parse_frequencies(frequencies, band):
    assert spectral.parse_frequencies(frequencies) == band
    assert spectral.number_of_tokens(frequencies) == np.prod([b - a for a, b in band])
    assert spectral.has_constant(frequencies) == (band[0][0] == band[1][0] == 0)


@pytest.mark.parametrize(
    "wrong", [0, -1, 2.5, True, None, "8", (8,), (1, 2, 3), (3, 0), ((1, 1), (0, 2)), ((-1, 2), 3)]
)
def test_wrong_frequencies(wrong):
    with pytest.raises(ValueError, match=r"must be a positive int, .*Received: frequencies="):
        spectral.parse_frequencies(wrong)


def test_frequencies_beyond_a_known_size():
    with pytest.raises(ValueError, match=r"below its size\. Received: size=5, .*at most 5"):
        spectral.dct_basis(5, 6)
    with pytest.raises(ValueError, match=r"Received: size=7, frequencies=\(0, 8\)"):
        spectral.low_pass(np.zeros((1, 9, 7, 1), "float32"), 8)
