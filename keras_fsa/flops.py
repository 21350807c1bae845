"""The operations of attention."""

from keras_fsa import spectral
from keras_fsa.arguments import integer
from keras_fsa.layers.self_attention import SelfAttention, check_attention
from keras_fsa.layers.spatial_self_attention import SpatialSelfAttention

__all__ = ["attention_flops"]


def attention_flops(layer: SelfAttention, height: int, width: int) -> int:
    """Floating point operations of an attention layer for one image, in one forward pass.

    A multiplication and its addition count as two. Matrix products are counted as the layer
    computes them; element-wise operations (sums, norms, the exponential) are left out. With
    `N = height * width`, `C` channels, keys of width `K`, values of width `V` (= C if they are not
    projected), and a band of `a` rows and `b` columns, of `T` tokens:

        transform(D) = 2 D b N + 2 D a b height         one way, of a map of D channels
        maps(M) = 2 M C (2 K + V)                       queries, keys and values of M tokens
        projection(M) = 2 M V C                         0 where values are not projected

    | layer, affinity                   | operations, R the recurrence                             |
    | --------------------------------- | -------------------------------------------------------- |
    | frequency, dot product            | `2 transform(C) + R (maps(T) + projection(T) + 4 T K C)` |
    | frequency, linear                 | `R (2 transform(C) + maps(T) + projection(T) + 4 T K C`  |
    |                                   | `+ 2 T K + transform(1) + 2 N C)`                        |
    | frequency, linear softmax         | the same `+ 3 R transform(K)`                            |
    | frequency, ReLU linear            | `R (transform(C) + maps(T) + projection(T)`              |
    |                                   | `+ 2 (T + N) K C + 3 transform(K))`                      |
    | spatial, softmax                  | `R (maps(N) + projection(N) + 2 N N (K + V))`            |
    | spatial, other affinities         | `R (maps(N) + projection(N) + 4 N K V)`                  |
    | spatial, with `low_pass`          | `2 R transform(C)` more                                  |

    With several heads, each has its part of `K` and `V`, so products of the two are divided by the
    number of heads. If values are projected, the sum over heads is part of the last transform of
    the linear affinities, which count `transform` and `2 N C` for each head; the dot product
    projects the mixed tokens, and ReLU linear attention the positions: `2 N V C` in place of
    `2 T V C`.

    Each affinity counts its own share (`keras_fsa.affinities`). Softmax counts the scores and the
    weighted sum. A band that lacks the constant frequency has one more token for it, and each
    transform back to positions, or of keys evaluated there, includes it.

    Args:
        layer: a built `FrequencySelfAttention` or `SpatialSelfAttention`.
        height, width: size of the layer's input feature map.

    Returns:
        An int.

    Raises:
        ValueError: for another layer, one that is not built, or a size that is not a positive int.

    Example:
    >>> layer = keras_fsa.layers.FrequencySelfAttention(frequencies=8)
    >>> layer.build((None, 97, 97, 512))
    >>> keras_fsa.flops.attention_flops(layer, 97, 97) / 1e9
    0.217202688
    """
    integer("height", height)
    integer("width", width)
    check_attention(layer)
    channels, key_dim = layer.query_kernel.shape
    value_dim = layer.value_kernel.shape[-1]
    projected = layer.output_kernel is not None
    positions, heads = height * width, layer.num_heads

    def transform(depth, frequencies):
        rows, columns = spectral.parse_frequencies(frequencies)
        thin = (columns[1] - columns[0]) * depth
        return 2 * thin * positions + 2 * thin * (rows[1] - rows[0]) * height

    def token_maps(tokens):
        return 2 * tokens * channels * (2 * key_dim + value_dim)

    def projection(tokens):
        return projected * 2 * tokens * channels * value_dim

    if isinstance(layer, SpatialSelfAttention):
        once = token_maps(positions) + projection(positions)
        once += heads * layer.affinity.operations(positions, key_dim // heads, value_dim // heads)
        if layer.low_pass is not None:
            once += 2 * transform(channels, layer.low_pass)
        return layer.recurrence * once

    extra = not spectral.has_constant(layer.band)
    tokens = spectral.number_of_tokens(layer.band) + extra

    def with_constant(depth):
        return transform(depth, layer.band) + extra * transform(depth, 1)

    analysis = transform(channels, layer.band)
    on_map = layer.project_last and not layer.affinity.stays_in_band
    once = token_maps(tokens) + projection(positions if on_map else tokens)
    # What a head mixes is the whole output's width where values are projected before.
    before = projected and not layer.project_last
    width = channels if before else value_dim // heads
    once += heads * layer.affinity.spectral_operations(
        tokens, positions, key_dim // heads, width, with_constant
    )
    if layer.affinity.stays_in_band:
        # Only tokens are iterated, and transformed back once.
        once -= heads * with_constant(width)
        return analysis + layer.recurrence * once + with_constant(channels)
    return layer.recurrence * (analysis + once)
