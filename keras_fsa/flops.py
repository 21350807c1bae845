"""What attention costs, counted."""

from keras_fsa import spectral
from keras_fsa.arguments import positive_int
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.layers.spatial_self_attention import SpatialSelfAttention


def attention_flops(layer: SelfAttention, height: int, width: int) -> int:
    """Floating point operations of an attention layer for one picture, in one forward pass.

    A multiplication with its addition counts as two. Counted are the products of matrices, as the
    layer does them; what runs over elements (sums, norms, the exponential) is left out. With
    `N = height * width`, `C` channels, keys of width `K`, values of width `V` (= C where they are
    not projected), and a band of `a` rows and `b` columns, of `T` tokens:

        transform(D) = 2 D b N + 2 D a b height         one way, of a map of D channels
        maps(M) = 2 M C (2 K + V)                       queries, keys and values of M tokens
        projection(M) = 2 M V C                         0 where values are not projected

    | layer, affinity                   | operations, R the recurrence                            |
    | --------------------------------- | ------------------------------------------------------- |
    | frequency, dot product            | `2 transform(C) + R (maps(T) + projection(T) + 4 T K C)` |
    | frequency, linear                 | `R (2 transform(C) + maps(T) + projection(T) + 4 T K C  |
    |                                   | + 2 T K + transform(1) + 2 N C)`                        |
    | frequency, linear softmax         | the same `+ 3 R transform(K)`                           |
    | spatial, softmax                  | `R (maps(N) + projection(N) + 2 N N (K + V))`           |
    | spatial, linear forms             | `R (maps(N) + projection(N) + 4 N K V)`                 |
    | spatial, with `low_pass`          | `2 R transform(C)` more                                 |

    Softmax is the scores and the weighted sum. A band that lacks the constant frequency has one
    more token for it, and each transform back to positions, or of the unit keys of the linear
    softmax, one of that token besides.

    Args:
        layer: a built `FrequencySelfAttention` or `SpatialSelfAttention`.
        height, width: of the feature map that the layer is given.

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
    positive_int("height", height)
    positive_int("width", width)
    if not (isinstance(layer, SelfAttention) and layer.built):
        raise ValueError(
            "`layer` must be a built FrequencySelfAttention or SpatialSelfAttention. Received: "
            f"layer={layer!r}. Pass one of a model's layers, or call layer.build(input_shape)."
        )
    channels, key_dim = layer.query_kernel.shape
    value_dim = layer.value_kernel.shape[-1]
    projected = layer.output_kernel is not None
    positions = height * width

    def transform(depth, frequencies):
        rows, columns = spectral.parse_frequencies(frequencies)
        thin = (columns[1] - columns[0]) * depth
        return 2 * thin * positions + 2 * thin * (rows[1] - rows[0]) * height

    def token_maps(tokens):
        return 2 * tokens * channels * (2 * key_dim + value_dim + projected * value_dim)

    if isinstance(layer, SpatialSelfAttention):
        if layer.affinity == "softmax":
            mixing = 2 * positions * positions * (key_dim + value_dim)
        else:
            mixing = 4 * positions * key_dim * value_dim
        if layer.low_pass is not None:
            mixing += 2 * transform(channels, layer.low_pass)
        return layer.recurrence * (token_maps(positions) + mixing)

    band = layer.band
    tokens = spectral.number_of_tokens(band)
    extra = not spectral.has_constant(band)
    tokens += extra

    def with_constant(depth):
        return transform(depth, band) + extra * transform(depth, 1)

    once = token_maps(tokens) + 4 * tokens * key_dim * channels
    if layer.affinity == "dot_product":
        # Only tokens are iterated.
        return transform(channels, band) + layer.recurrence * once + with_constant(channels)
    once += transform(channels, band) + with_constant(channels) + 2 * positions * channels
    once += 2 * tokens * key_dim + with_constant(1)
    if layer.affinity == "linear_softmax":
        # Queries and keys visit the positions; the keys come back.
        once += 3 * with_constant(key_dim)
    return layer.recurrence * once
