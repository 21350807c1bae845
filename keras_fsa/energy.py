"""How much of a feature map its low frequencies hold.

The DCT is orthonormal, so the squares of all tokens have the same sum as the squares of all values
(Parseval), and each frequency has a share of that energy. If a few frequencies hold nearly all of
it, attention loses little by seeing only these: the paper's premise, which this module measures.
"""

from keras import ops

from keras_fsa import spectral
from keras_fsa.arguments import boolean
from keras_fsa.types import Tensor

__all__ = ["energy_held", "energy_shares"]


def energy_shares(feature_map: Tensor, without_mean: bool = False) -> Tensor:
    """Each frequency's share of the energy of a map, over all its channels.

    `E[u, v] = sum_c X[u, v, c]^2 / sum_n,c x[n, c]^2`, with `X` the DCT of the map `x`.

    Args:
        feature_map: `(H, W, C)`.
        without_mean: whether to leave out the constant frequency, so that the shares are those of
            the variance over positions.

    Returns:
        A tensor `(H, W)`, rows first, that sums to one; zeros for a map without energy.

    Raises:
        ValueError: for a map that is not of rank 3.
    """
    shape = tuple(getattr(feature_map, "shape", ()))
    if len(shape) != 3:
        raise ValueError(
            "`feature_map` must be one map (H, W, C). Received: feature_map of shape "
            f"{shape}. Pass one example of the batch: features[0]."
        )
    boolean("without_mean", without_mean)
    tokens = spectral.analysis(ops.expand_dims(feature_map, 0), shape[:2])
    energy = ops.sum(ops.square(tokens[0]), axis=-1)
    if without_mean:
        energy = energy - ops.one_hot(0, energy.shape[0], dtype=energy.dtype) * energy
    total = ops.sum(energy)
    return ops.reshape(energy / ops.where(total > 0, total, 1), shape[:2])


def energy_held(shares: Tensor) -> Tensor:
    """The combined share of the `k x k` lowest frequencies, for each `k`.

    Args:
        shares: `(H, W)`, from `energy_shares`.

    Returns:
        A tensor `(min(H, W),)`; entry `k - 1` belongs to `frequencies=k`.

    Raises:
        ValueError: for shares that are not of rank 2.

    Example:
    >>> import keras
    >>> from keras_fsa.energy import energy_held, energy_shares
    >>> flat = keras.ops.ones((6, 8, 3))
    >>> held = energy_held(energy_shares(flat))
    >>> round(float(held[0]), 4)  # one frequency, the constant one
    1.0
    """
    if len(getattr(shares, "shape", ())) != 2:
        raise ValueError(
            "`shares` must be those of one map, (H, W). Received: shares of shape "
            f"{tuple(getattr(shares, 'shape', ()))}. Pass what `energy_shares` returns."
        )
    return ops.diagonal(ops.cumsum(ops.cumsum(shares, axis=0), axis=1))
