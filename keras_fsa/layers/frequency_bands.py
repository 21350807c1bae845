"""A separate process for each frequency band."""

import itertools
from typing import Any

import keras
from keras import ops

from keras_fsa import spectral
from keras_fsa.arguments import one_of
from keras_fsa.layers.frequency_self_attention import FrequencySelfAttention


@keras.saving.register_keras_serializable(package="keras_fsa")
class ChannelGain(keras.layers.Layer):
    """`gain * tokens`, with a gain per channel that starts at zero.

    As a process in `FrequencyBands` it scales its band by `1 + gain`: a gain of -1 removes the
    band, 0 leaves it unchanged.

    Args:
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        tokens: `(B, T, C)`.

    Output:
        `(B, T, C)`, in the dtype of the tokens, even under mixed precision.

    Example:
    >>> import keras
    >>> tuple(keras_fsa.layers.ChannelGain()(keras.random.normal((2, 64, 16))).shape)
    (2, 64, 16)
    """

    def __init__(self, **kwargs: Any) -> None:
        # Under mixed precision, neither tokens nor gains are rounded: see `keras_fsa.spectral`.
        super().__init__(**{**kwargs, "autocast": False})

    def build(self, input_shape):
        self.gain = self.add_weight(
            name="gain", shape=input_shape[-1:], initializer="zeros", autocast=False
        )

    def call(self, tokens):
        return tokens * ops.cast(self.gain, tokens.dtype)


@keras.saving.register_keras_serializable(package="keras_fsa")
class FrequencyBands(keras.layers.Layer):
    """Apply a separate process to each frequency band of a feature map.

    Each band `b` of the map `x` becomes spectral tokens. Its process `f_b` computes an update of
    them, which is mapped back to all positions and added to the map:

        X_b = P_b^T x                            analysis, P_b the two-dimensional DCT basis of b
        output = x + sum over b of P_b f_b(X_b)  synthesis

    Frequencies outside all bands pass unchanged: with processes only on low frequencies, edges are
    preserved. The paper applies attention to the lowest frequencies and nothing to the rest, as
    `FrequencySelfAttention` alone does; here other bands can have processes as well.

    Args:
        bands: a list of bands that do not overlap. Each item is

            - a pair `(frequencies, process)`: an int, a pair (rows, columns) or a band
              `((u0, u1), (v0, v1))` of half-open ranges, and a Keras layer that maps the band's
              tokens `(B, T, C)` to an update of the same shape. Rows vary slowest among the
              `T = (u1 - u0) * (v1 - v0)` tokens. Examples: `ChannelGain`, `keras.layers.Dense(C)`,
              a `keras.Sequential`.
            - or a `FrequencySelfAttention` with `affinity="dot_product"`, which has its own band.

            Each item needs a layer of its own.
        data_format: `"channels_last"` or `"channels_first"`. Default: Keras' setting.
        **kwargs: of `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: feature map `(B, H, W, C)`, or `(B, C, H, W)` if channels come first. Height and
            width may be unknown when the graph is built; a map smaller than a band is then treated
            as if its higher frequencies were zero.
        training: passed to the processes.

    Output:
        A map with the shape of the input, in the layer's compute dtype.

    If every process starts at zero, as `ChannelGain` and `FrequencySelfAttention` do, the layer is
    initialised to the identity and can be inserted into a trained network. The biases of an
    attention whose band lacks the constant frequency (0, 0) are the same at every position, so they
    change the mean of the map as well as the band.

    Under mixed precision, tokens are float32 and updates are added in float32. Each process follows
    its own dtype policy: a `Dense` created under `mixed_float16` multiplies in float16, whose
    largest value, 65504, is less than the constant token of a bright, large map. Give it
    `dtype="float32"` if that matters.

    Raises:
        ValueError: for an empty list, an item of the wrong kind, overlapping bands, a layer shared
            by two bands, or an attention with another data format or an affinity whose update
            leaves the band; when the layer is built, for an input that is not of rank 4 or has an
            unknown number of channels, a band beyond a known height or width, or a process that
            changes the shape of the tokens.

    Example:
    >>> import keras
    >>> from keras_fsa.layers import ChannelGain, FrequencyBands, FrequencySelfAttention
    >>> layer = FrequencyBands(
    ...     [
    ...         FrequencySelfAttention(8),
    ...         (((8, 16), (0, 16)), ChannelGain()),
    ...         (((0, 8), (8, 16)), ChannelGain()),
    ...     ]
    ... )
    >>> tuple(layer(keras.random.normal((2, 33, 41, 16))).shape)
    (2, 33, 41, 16)

    Source: Zhang, Panahi, Gao, arXiv:2211.15595, for the idea. Several bands in one layer are
    original to this library.
    """

    def __init__(self, bands: list, data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        one_of("data_format", data_format, ("channels_last", "channels_first", None))
        self.data_format = data_format or keras.config.image_data_format()
        self.token_dtype = spectral.token_dtype(self.compute_dtype)
        if not isinstance(bands, (list, tuple)) or not bands:
            raise ValueError(
                "`bands` must be a list of at least one band. "
                f"Received: bands={bands!r}. Write bands=[(frequencies, process)]."
            )
        pairs = [_band_and_process(i, item, self.data_format) for i, item in enumerate(bands)]
        self.bands = [band for band, _ in pairs]
        # A flat list, because Keras tracks the layers in it.
        self.processes = [process for _, process in pairs]
        _check_disjoint(self.bands)
        _check_distinct(self.processes)

    def build(self, input_shape):
        channels = None
        if len(input_shape) == 4:
            channels = input_shape[-1 if self.data_format == "channels_last" else 1]
        if channels is None:
            raise ValueError(
                "`FrequencyBands` needs a feature map of rank 4 whose number of channels is known. "
                f"Received: input_shape={tuple(input_shape)} with data_format="
                f"{self.data_format!r}. Reshape the input, or give it a fixed number of channels."
            )
        for band in self.bands:
            spectral.check_band_fits(band, *spectral.spatial_size(input_shape, self.data_format))
        for i, (band, process) in enumerate(zip(self.bands, self.processes, strict=True)):
            if not isinstance(process, FrequencySelfAttention):
                self._build_process(i, process, spectral.number_of_tokens(band), channels)
            elif not process.built:
                process.build(input_shape)

    def _build_process(self, index, process, number_of_tokens, channels):
        # A symbolic call builds any layer and gives its output shape, even without
        # `compute_output_shape`.
        shape = (None, number_of_tokens, channels)
        output = process(keras.KerasTensor(shape, self.token_dtype))
        output_shape = getattr(output, "shape", None)
        if output_shape is None or tuple(output_shape[1:]) != shape[1:]:
            raise ValueError(
                "A process must return an update of the shape of its tokens. Received: the process "
                f"of bands[{index}]={process!r}, which maps {shape} to {output_shape or output}. "
                "Project its output back to (B, T, C)."
            )

    def call(self, inputs, training=None):
        x = ops.cast(inputs, self.token_dtype)
        height, width = spectral.spatial_size(ops.shape(x), self.data_format)
        output = x
        for band, process in zip(self.bands, self.processes, strict=True):
            if isinstance(process, FrequencySelfAttention):
                update = ops.cast(process.map_update(x, training), self.token_dtype)
            else:
                # Keras hands `training` on to layers that are called.
                tokens = process(spectral.analysis(x, band, self.data_format, strict=False))
                tokens = ops.cast(tokens, self.token_dtype)
                update = spectral.synthesis(
                    tokens, height, width, band, self.data_format, strict=False
                )
            output = output + update
        return ops.cast(output, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        bands = []
        for band, process in zip(self.bands, self.processes, strict=True):
            item = keras.saving.serialize_keras_object(process)
            bands.append(item if isinstance(process, FrequencySelfAttention) else [band, item])
        return {**super().get_config(), "bands": bands, "data_format": self.data_format}

    @classmethod
    def from_config(cls, config):
        bands = keras.saving.deserialize_keras_object(config["bands"])
        return super().from_config({**config, "bands": bands})


def _band_and_process(index, item, data_format):
    """The band and process of an item of `bands`, validated."""
    if isinstance(item, FrequencySelfAttention):
        if not item.affinity.stays_in_band:
            raise ValueError(
                'An attention in `bands` must have the affinity "dot_product", or another one '
                "whose update stays in the band: a normalised affinity divides at each position, "
                "which takes the update out of the band. "
                f"Received: bands[{index}].affinity={item.affinity.name!r}. Use the dot product, "
                "or apply the attention before or after this layer."
            )
        if item.data_format != data_format:
            raise ValueError(
                "An attention in `bands` must have the data format of the layer. Received: bands["
                f"{index}].data_format={item.data_format!r} with data_format={data_format!r}. "
                "Give both the same `data_format`."
            )
        return item.band, item
    if isinstance(item, (list, tuple)) and len(item) == 2:
        frequencies, process = item
        band = spectral.parse_frequencies(frequencies)
        if isinstance(process, keras.Layer) and not isinstance(process, FrequencySelfAttention):
            return band, process
    raise ValueError(
        "Each item of `bands` must be a pair (frequencies, process) whose process is a Keras "
        "layer, or a `FrequencySelfAttention`, which has its own frequencies. Received: "
        f"bands[{index}]={item!r}. Put a function into a layer; pass an attention by itself, not "
        "in a pair."
    )


def _intersect(first, second):
    return max(first[0], second[0]) < min(first[1], second[1])


def _check_disjoint(bands):
    for (i, first), (j, second) in itertools.combinations(enumerate(bands), 2):
        rows, columns = zip(first, second, strict=True)
        if _intersect(*rows) and _intersect(*columns):
            raise ValueError(
                "`bands` must not overlap: each frequency has one process at most. "
                f"Received: bands[{i}]={first} and bands[{j}]={second}, whose rows and columns "
                "both intersect. Shrink one of them, or split it into bands outside the other."
            )


def _check_distinct(processes):
    for (i, first), (j, second) in itertools.combinations(enumerate(processes), 2):
        if first is second:
            raise ValueError(
                "Each band must have a process of its own: a shared layer would come back from "
                f"its config as two. Received: bands[{i}] and bands[{j}] with the same process "
                f"{first!r}. Create one layer for each."
            )
