"""Signal Coast: Signal Harbor at the size of a satellite scene.

What it is for. In `keras_fsa.datasets.signal_harbor` a network must see a whole image of 96 x 128
pixels to tell inbound boats from outbound ones. Here it must see a whole coast, by default of
2048 x 8192 pixels, which is cut into windows by every tool that cannot take it at once. One lamp in
the sky, green or red, tells what all boats are, hundreds of them near the lower border, and the
lamp is at least half the coast's height away from each: no window of that size or less holds a
pixel of a boat and one of the lamp. A method that sees windows can but guess.

How it is built. Boats, buoys, clouds and waves are as many pixels large whatever the size of the
coast, and there are more of them on a larger one; the landscape and the lamp are shares of it.
So a network may learn on small coasts what it is then shown on a large one: its convolutions meet
the same boats, and its attention a lamp of the same share of the image. The lamp is 0.15 high
and 0.14 wide, as shares of the height and of the width; of 8 frequencies along a side the finest
has half waves of 1/7, so such a lamp is theirs to resolve.

As in the harbour, all but the colour of the lamp is settled before that colour is drawn, with even
odds. The classes are those of the harbour, of which "pier" does not occur.
"""

import numpy as np

from keras_fsa.arguments import positive_ints
from keras_fsa.datasets import signal_harbor as harbor

LEAST = (128, 256)
"""Height and width of the smallest coast: one row of boats, and the lamp clear of them."""

LAMP_RADII = 0.075, 0.07
"""Of the lamp, an ellipse: shares of the height and of the width."""

LAMP_ROWS = (0.095, 0.105)
HORIZON = 0.42
# As far below the lamp, its rings included, as `MIN_DISTANCE` says.
BOAT_TOP = 0.7
MIN_DISTANCE = 0.5
"""Least Chebyshev distance between a pixel of a boat and one of the lamp: a share of the height."""

LANE = 36
"""Rows of water for each row of boats, pixels."""
BERTH = 44
"""Columns of water for each boat, pixels."""
RINGS = 2.0, 3.5


def draw_coast(
    rng: np.random.Generator, size: tuple[int, int] = (2048, 8192), signal: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one coast and its mask.

    Args:
        rng: a `numpy.random.Generator`. The same state of it gives the same image.
        size: height and width, at least `LEAST`.
        signal: `"green"` or `"red"` sets the colour of the lamp; None draws it with even odds.
            Two calls that differ only in this differ only inside the lamp and in the labels of
            the signal and the boats.

    Returns:
        The pair `(image, mask)`: RGB, uint8, of shape `(H, W, 3)`, and positions in
        `signal_harbor.CLASSES`, uint8, of shape `(H, W)`.

    Raises:
        ValueError: `signal` is no colour of the lamp, or `size` is too small.
    """
    harbor.check_signal(signal)
    positive_ints("size", size, 2)
    height, width = size
    if height < LEAST[0] or width < LEAST[1]:
        raise ValueError(
            f"`size` must be at least {LEAST[0]} x {LEAST[1]}, or boats would be near the lamp. "
            f"Received: size={size!r}. Draw a larger coast, or signal_harbor.draw_scene."
        )
    lamp = np.array([rng.uniform(0.1, 0.9) * width, rng.uniform(*LAMP_ROWS) * height])
    radii = np.array([LAMP_RADII[1] * width, LAMP_RADII[0] * height])
    mood = harbor._mix(rng, harbor.MOODS) * rng.uniform(0.92, 1.06)
    image, mask = _landscape(rng, size, mood)

    things = [_signal(lamp, radii), *_afloat(rng, size)]
    colours, cover, labels = harbor._paint(things, mood[3] / 255, shape=size)
    colours *= 1 + 0.1 * _noise(rng, size, (1.5, 1.6))[..., None]
    image = harbor._over(image, colours, cover)
    mask = np.where(labels == harbor.UNLABELLED, mask, labels)
    sensor = rng.uniform(2, 6) * rng.standard_normal(image.shape, "float32")

    # Nothing is drawn at random after the colour, so that nothing else can depend on it.
    if signal is None:
        signal = str(rng.choice(tuple(harbor.SIGNALS)))
    if signal == "red":
        mask[mask == harbor.GREEN] = harbor.RED
        mask[mask == harbor.INBOUND] = harbor.OUTBOUND
    x, y = ((_centres(n) - c) / r for n, c, r in zip(size[::-1], lamp, radii, strict=True))
    distance = np.hypot(x, y[:, None])
    disc = np.clip((1 - distance) * radii.min() + 0.5, 0, 1)
    glass = (1.1 - 0.25 * distance)[..., None] * np.array(harbor.SIGNALS[signal], "float32")
    image = harbor._over(image, glass, disc[..., None])
    return np.clip(image + sensor, 0, 255).astype("uint8"), mask


def _centres(count):
    return np.arange(count, dtype="float32") + 0.5


def _noise(rng, size, cell):
    """Smooth noise, about -1 to 1, of random values so many pixels apart."""
    rows, columns = (max(2, round(n / side)) for n, side in zip(size, cell, strict=True))
    return harbor._noise(rng, rows, columns, tuple(size))


def _curve(rng, width, cell):
    """A smooth random curve over the columns, from 0 to 1."""
    return np.clip(0.5 + 0.5 * _noise(rng, (1, width), (1, cell))[0], 0, 1)


def _landscape(rng, size, mood):
    """Sky, hills, a beach and the sea: the image, float32, and its mask."""
    height, width = size
    zenith, haze, deep, light = mood
    y = _centres(height)[:, None]
    horizon = HORIZON * height
    shade = 1 + 0.05 * rng.standard_normal((*size, 1), "float32")
    patches = _noise(rng, size, (8, 9))[..., None]

    image = harbor._over(haze, zenith, np.clip(1 - y / horizon, 0, 1)[..., None] ** 0.8)
    clouds = sum(
        share * _noise(rng, size, cell)
        for share, cell in ((1, (10, 25)), (0.6, (5, 9)), (0.35, (2, 3.5)))
    )
    clouds = np.clip(1.6 * (clouds + rng.uniform(-0.8, 0.3)), 0, 0.85)[..., None]
    image = harbor._over(image, 240 * light / 255, clouds)

    grass = harbor._mix(rng, harbor.GRASS) * rng.uniform(0.75, 1.1) * light / 255
    sand = harbor._mix(rng, harbor.SAND) * rng.uniform(0.9, 1.08) * light / 255
    ripples = (_noise(rng, size, (2.2, 9)) + 0.8 * _noise(rng, size, (1.6, 3.2)))[..., None]
    depth = np.sqrt(np.clip((y - horizon) / (height - horizon), 0, 1))[..., None]
    sea = harbor._over(0.45 * haze + 0.55 * deep, deep, depth) * (1 + 0.12 * ripples)

    hills = 0.03 + 0.12 * _curve(rng, width, 0.15 * width) + 0.01 * _curve(rng, width, 12)
    strand = 0.02 + 0.03 * _curve(rng, width, 0.1 * width)
    mask = np.full(size, harbor.SKY, "uint8")
    for edge, layer, label in (
        (horizon - height * hills, grass * (1 + 0.2 * patches) * shade, harbor.HILL),
        (np.full(width, horizon), sand * (1 + 0.06 * patches) * (2 * shade - 1), harbor.BEACH),
        (horizon + height * strand, sea * (1 + 0.06 * patches) * shade, harbor.SEA),
    ):
        cover = np.clip(y - edge + 0.5, 0, 1).astype("float32")
        image = harbor._over(image, layer, cover[..., None])
        mask[cover > 0.5] = label
    return image.astype("float32"), mask


def _signal(lamp, radii):
    """The lamp's two rings, a dark and a white one."""
    dark, white = np.array([44, 46, 54]), np.array([246, 246, 240])
    unit = harbor._circle(np.zeros(2), 1, corners=240)
    shapes = [
        (lamp + unit * (radii + wider), colour)
        for wider, colour in ((RINGS[1], dark), (RINGS[0], white))
    ]
    # The label stands for both colours until that of the lamp is known.
    return harbor.GREEN, shapes


def _afloat(rng, size):
    """Buoys and boats, far ones first."""
    height, width = size
    things = []
    lanes = int((1 - BOAT_TOP) * height / LANE)
    berths = width // BERTH
    for lane in range(lanes):
        bottom = height - 2 - lane * LANE
        for berth in np.flatnonzero(rng.random(berths) < 0.7):
            x = (berth + 0.5 + rng.uniform(-0.08, 0.08)) * BERTH
            y = bottom - rng.uniform(0, 6)
            wide = rng.uniform(28, 38)
            tall = min(rng.uniform(0.75, 1.0) * wide, y - BOAT_TOP * height - 1)
            scale = np.array([rng.choice([-1, 1]) * wide, -tall])
            shapes = [
                (points * scale + np.array([x, y]), colour) for points, colour in harbor._boat(rng)
            ]
            # The label stands for both kinds of boat until the colour of the lamp is known.
            things.append((y, harbor.INBOUND, shapes))
    for _ in range(height * width // 9000):
        x, y = rng.uniform(5, width - 5), rng.uniform((HORIZON + 0.06) * height + 20, height - 4)
        shapes = [
            (points + np.array([0, y - 75]), colour) for points, colour in harbor._buoy(rng, x, 75)
        ]
        things.append((y, harbor.BUOY, shapes))
    return [thing[1:] for thing in sorted(things, key=lambda thing: thing[0])]
