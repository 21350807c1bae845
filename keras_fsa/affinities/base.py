"""The interface of affinities, and the sums that several of them share."""

from collections.abc import Callable
from typing import Any, ClassVar

from keras import ops

from keras_fsa.types import Size, Tensor

Context = tuple[Tensor, ...]
"""All that a position needs to know of the others: a few small tensors, see `Affinity.context`."""
Visit = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""`visit(tokens, function)`: the tokens of `function`, applied at each position of the tokens' map.

`function` maps `(..., C)` to `(..., C)` and sees each position by itself. The tokens are a sum over
positions, so they can be gathered from one tile of the map at a time.
"""
Synthesis = Callable[..., Tensor]
"""`synthesis(tokens, weight=None, offset=None)`: see `keras_fsa.spectral.synthesis`. The map, or
the part of it that the caller asks for."""


class Affinity:
    """How strongly each position attends to each other one. Base class of all affinities.

    A subclass sets `name`, and implements `on_positions`, `row` and `operations`; if it has a form
    on tokens, also `context`, `at_positions` and `spectral_operations`. Register it with
    `keras.saving.register_keras_serializable`, and give it a `get_config` if its constructor takes
    arguments.

    On positions, queries, keys and values are `(B, N, D)`. On tokens they are `(B, T, D)`, the
    constant token first, and the output is found in two steps: `context` sums up what the whole map
    contributes, `at_positions` evaluates it, everywhere or in one tile.

    Attributes:
        name: the affinity's name in arguments, configs and figures.
        spectral: whether it has a form on tokens, which `FrequencySelfAttention` needs.
        stays_in_band: whether the output of low-frequency queries, keys and values is low-frequency
            as well. If so, its context is a single tensor, the tokens of the output, and
            recurrence iterates on them without visiting the map.
        sums_to_one: whether the affinities of each position sum to one, so that a constant that is
            added to all values is added to all outputs.
        half_precision: whether queries, keys and values may be float16 or bfloat16 on positions.
            Otherwise they are at least float32, which sums over all positions need.
        ends_in_synthesis: whether its output at positions is a synthesis with a weight, and the
            only one with a weight. If heads are to be summed, that product then sums them.
        expansion: name of the affinity that approximates this one to first order and has a form on
            tokens, or None.
    """

    name: ClassVar[str]
    spectral: ClassVar[bool] = True
    stays_in_band: ClassVar[bool] = False
    sums_to_one: ClassVar[bool] = True
    half_precision: ClassVar[bool] = False
    ends_in_synthesis: ClassVar[bool] = False
    expansion: ClassVar[str | None] = None

    def on_positions(self, query: Tensor, key: Tensor, value: Tensor, positions: Size) -> Tensor:
        """The output of attention on positions.

        Args:
            query, key, value: `(B, N, K)`, `(B, N, K)` and `(B, N, V)`.
            positions: their number `N`, an int or an integer scalar tensor.

        Returns:
            `(B, N, V)`.
        """
        raise NotImplementedError

    def row(self, query: Tensor, key: Tensor) -> Tensor:
        """The affinities of one query `(1, K)` to all keys `(N, K)`: `(N,)`."""
        raise NotImplementedError

    def operations(self, positions: int, key_dim: int, value_dim: int) -> int:
        """Operations of `on_positions` for one example, as `keras_fsa.flops` counts them."""
        raise NotImplementedError

    def context(
        self, query: Tensor, key: Tensor, value: Tensor, positions: Size, visit: Visit | None
    ) -> Context:
        """What the whole map contributes to any position, from tokens.

        Args:
            query, key, value: `(B, T, K)`, `(B, T, K)` and `(B, T, V)`, the constant token first.
            positions: number `N` of positions of the map.
            visit: applies a function at each position of a map that is given by its tokens. None
                if the affinity stays in band.

        Returns:
            A tuple of tensors whose sizes do not depend on the map's.
        """
        raise NotImplementedError

    def at_positions(self, context: Context, positions: Size, synthesis: Synthesis) -> Tensor:
        """The output of attention at some positions.

        Args:
            context: from `context`.
            positions: number `N` of positions of the whole map.
            synthesis: from tokens to the positions in question, `(B, T, D)` to `(B, h, w, D)`.

        Returns:
            `(B, h, w, V)`.
        """
        raise NotImplementedError

    def spectral_operations(
        self,
        tokens: int,
        positions: int,
        key_dim: int,
        value_dim: int,
        transform: Callable[[int], int],
    ) -> int:
        """Operations of `context` and `at_positions` for one example.

        Args:
            tokens, positions, key_dim, value_dim: `T`, `N`, `K` and `V`.
            transform: from a number of channels to the operations of their transform, one way.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Affinity":
        """An affinity with these constructor arguments."""
        return cls(**config)

    # As a member of an enumeration of strings does, an affinity equals its name.

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Affinity):
            return type(self) is type(other) and self.get_config() == other.get_config()
        return self.name == other

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


# Below this share of N a denominator counts as zero. The denominator of the linear softmax is a sum
# of N affinities of 0 to 2, so it gets there only where every key is opposite to the query.
_SMALLEST_DENOMINATOR = 1e-6
# The square of a norm below which a vector counts as zero; the gradient of its inverse root is
# still a float32.
_SMALLEST_SQUARE = 1e-24


def outer(key: Tensor, value: Tensor) -> Tensor:
    """`sum_m k_m v_m^T`: `(B, M, K)` and `(B, M, V)` to `(B, K, V)`."""
    return ops.transpose(key, (0, 2, 1)) @ value


def total(tokens: Tensor, positions: Size) -> Tensor:
    """The sum over positions of the tokens' map, `sqrt(N)` times token 0: `(B, 1, D)`."""
    return tokens[:, :1] * ops.sqrt(ops.cast(positions, tokens.dtype))


def at_least(smallest: float, x: Tensor) -> Tensor:
    """The larger of the two."""
    # Under torch a plain number takes Keras' default dtype: 1e-24 is 0 where that is float16.
    return ops.where(x < smallest, ops.cast(smallest, x.dtype), x)


def inverse_norm(x: Tensor) -> Tensor:
    """`1 / |x|` over the last axis, which is kept; a zero vector gets a large finite number."""
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return ops.rsqrt(at_least(_SMALLEST_SQUARE, square))


def divide(numerator: Tensor | float, denominator: Tensor, positions: Size) -> Tensor:
    """The quotient; a denominator that is negligible next to `positions` is kept away from zero."""
    smallest = _SMALLEST_DENOMINATOR * ops.cast(positions, denominator.dtype)
    near_zero = ops.abs(denominator) < smallest
    return numerator / ops.where(near_zero, smallest, denominator)
