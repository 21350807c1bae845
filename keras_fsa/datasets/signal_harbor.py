"""Signal Harbor: a small drawn dataset that only long-range context can solve.

What it is for. Semantic segmentation with self-attention is meant to carry information across
the whole image. On most datasets that is hard to see, because what lies near a pixel nearly
always gives its class away. Here it does not, by construction: boats entering a harbour
("inbound") and boats leaving it ("outbound") look exactly alike, and only a signal lamp at the
far top of the image tells which they are. A green lamp means that every boat in the image is
inbound, a red one that every boat is outbound. Every boat pixel is at least `MIN_DISTANCE` pixels
away from every lamp pixel, so a network whose receptive field reaches less far can find the boats
but can only guess their kind (about half of them right), while one that sees the whole image
can get both classes right. The other classes, the two signals among them, can be learned from what
is nearby.

How it is built. Each image, 96 pixels high and 128 wide, is drawn by `draw_scene` from a random
number generator, so there is nothing to download. The landscape is made of curves and smooth
noise: a sky with clouds, hills with trees and houses, two beaches, the sea. A pier, buoys and two
to four boats are polygons in front of it; a random time of day colours everything, and sensor
noise comes last. Buoys are red or green at random, and so are some boats, so the mean colour of
an image does not betray the lamp. Trees and houses belong to the hill; birds, parasols and foam
are clutter and keep the class of what is behind them.

The colour of the lamp is the very last thing that is drawn at random, with even odds. All else is
settled by then, hence independent of it; the colour decides the pixels inside the lamp and which
of their two labels the signal and the boats get, nothing more.

Example `i` of a split comes from a generator seeded with the split and `i` (`scene_rng`), so that
the same versions of NumPy and Pillow draw the same dataset everywhere: 640 examples for `train`,
160 for `test`.
"""

import numpy as np

from keras_fsa.arguments import optional_import

HEIGHT, WIDTH = 96, 128
SPLITS = {"train": 640, "test": 160}
MIN_DISTANCE = 44
"""Least Chebyshev distance, in pixels, between a pixel of a boat and a pixel of the lamp."""

CLASSES = (
    "sky",
    "hill",
    "beach",
    "sea",
    "pier",
    "buoy",
    "green signal",
    "red signal",
    "inbound",
    "outbound",
)
"""Names of the classes; the position of a name is its value in the mask."""

PALETTE = (
    (150, 208, 245),
    (120, 100, 72),
    (240, 228, 66),
    (0, 90, 165),
    (24, 24, 30),
    (204, 121, 167),
    (255, 255, 255),
    (150, 150, 150),
    (0, 158, 115),
    (213, 94, 0),
)
"""One RGB colour for each class, to draw masks with; told apart under colour blindness too."""

SIGNALS = {"green": (0, 158, 115), "red": (220, 66, 20)}
"""Colours of the lamp: bluish green (boats are inbound) and vermillion (boats are outbound)."""

SKY, HILL, BEACH, SEA, PIER, BUOY, GREEN, RED, INBOUND, OUTBOUND = range(len(CLASSES))
UNLABELLED = 255

# Pixel centres. Rows grow downwards, as in the arrays.
X = np.arange(WIDTH, dtype="float32") + 0.5
Y = np.arange(HEIGHT, dtype="float32")[:, None] + 0.5

LAMP_RADIUS = 6.5
LAMP_ROWS = (9.0, 10.5)
# No boat reaches above this row, wherever the lamp is.
BOAT_TOP = LAMP_ROWS[1] + LAMP_RADIUS + MIN_DISTANCE

# Objects are drawn this many times larger and then averaged; an odd number, so that the middle
# sample of each block, which gives the label, lies exactly at the centre of the pixel.
SUPERSAMPLE = 3

# Times of day: colours of the zenith, of the sky at the horizon, of the deep sea and of the light.
MOODS = np.array(
    [
        [(62, 124, 200), (192, 217, 236), (34, 90, 132), (255, 253, 246)],  # noon
        [(118, 160, 204), (250, 220, 188), (66, 112, 130), (255, 240, 220)],  # morning
        [(84, 84, 148), (252, 164, 96), (66, 66, 108), (255, 206, 160)],  # sunset
        [(134, 146, 158), (204, 208, 210), (84, 106, 112), (226, 230, 238)],  # overcast
        [(50, 146, 190), (206, 232, 226), (22, 126, 134), (255, 252, 238)],  # tropical
        [(48, 58, 112), (206, 140, 152), (44, 56, 98), (196, 186, 222)],  # dusk
    ],
    dtype="float32",
)
GRASS = np.array([(96, 130, 62), (138, 132, 74), (64, 104, 72), (128, 104, 88)], "float32")
SAND = np.array([(226, 200, 148), (208, 186, 150), (196, 164, 122)], "float32")
PAINTS = np.array(
    [
        (244, 242, 234),
        (236, 222, 186),
        (206, 70, 40),
        (20, 140, 104),
        (30, 66, 124),
        (232, 178, 48),
        (70, 74, 82),
        (124, 74, 46),
        (120, 168, 200),
        (168, 62, 92),
    ],
    dtype="float32",
)


def scene_rng(split: str, index: int) -> np.random.Generator:
    """The random number generator that example `index` of a split is drawn from.

    Args:
        split: `"train"` or `"test"`.
        index: number of the example in its split, from 0.

    Returns:
        A `numpy.random.Generator`.

    Raises:
        ValueError: if the split does not exist.
    """
    if split not in SPLITS:
        raise ValueError(
            f"`split` must be one of {tuple(SPLITS)}. Received: split={split!r}. "
            "Pass the name of a split of the dataset."
        )
    return np.random.default_rng((list(SPLITS).index(split), index))


def draw_scene(
    rng: np.random.Generator, signal: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image of the harbour and its mask.

    Args:
        rng: a `numpy.random.Generator`. The same state of it gives the same image.
        signal: `"green"` or `"red"` sets the colour of the lamp; None draws it with even odds.
            Two calls that differ only in this differ only inside the lamp and in the labels of
            the signal and the boats.

    Returns:
        The pair `(image, mask)`: RGB, uint8, of shape `(96, 128, 3)`, and positions in `CLASSES`,
        uint8, of shape `(96, 128)`.

    Raises:
        ValueError: `signal` is no colour of the lamp.
    """
    check_signal(signal)
    lamp = rng.uniform(11, WIDTH - 11), rng.uniform(*LAMP_ROWS)
    mood = _mix(rng, MOODS) * rng.uniform(0.92, 1.06)
    light = mood[3] / 255
    land = _land(rng, lamp[0])
    image, mask, ripples = _landscape(rng, land, mood)
    afloat = _afloat(rng, land)

    mirror = np.array([1, -0.5])
    mirrored = [
        (None, [(points * mirror + np.array([0, 1.5 * y]), colour) for points, colour in shapes])
        for y, _, shapes in afloat
    ]
    colours, cover, _ = _paint(mirrored, light, supersample=1)
    cover = cover * np.clip(0.45 + 0.9 * ripples, 0, 0.8)[..., None]
    image = _over(image, colours, np.where(mask[..., None] == SEA, cover, 0))

    things = _ashore(rng, land) + [thing[1:] for thing in afloat] + [_tower(lamp, land)]
    colours, cover, labels = _paint(things, light)
    grain = 1 + 0.1 * _noise(rng, 64, 80)[..., None]
    image = _over(image, colours * grain, cover)
    mask = np.where(labels == UNLABELLED, mask, labels)
    sensor = rng.uniform(2, 6) * rng.standard_normal(image.shape, "float32")

    # Nothing is drawn at random after the colour, so that nothing else can depend on it.
    if signal is None:
        signal = str(rng.choice(tuple(SIGNALS)))
    if signal == "red":
        mask[mask == GREEN] = RED
        mask[mask == INBOUND] = OUTBOUND
    x, y = X - lamp[0], Y - lamp[1]
    gloss = 0.85 + 0.25 * np.exp(-((x + 2) ** 2 + (y + 2) ** 2) / 12)
    disc = np.clip(LAMP_RADIUS + 0.5 - np.hypot(x, y), 0, 1)
    glass = gloss[..., None] * np.array(SIGNALS[signal], "float32")
    image = _over(image, glass, disc[..., None])
    return np.clip(image + sensor, 0, 255).astype("uint8"), mask


def check_signal(signal: str | None) -> None:
    """Raise a `ValueError` if `signal` is no colour of the lamp and not None."""
    if signal is not None and signal not in SIGNALS:
        raise ValueError(
            f"signal must be one of {tuple(SIGNALS)} or None. Received: signal={signal!r}. "
            "Pass the name of a colour of the lamp, or None to draw it at random."
        )


def _mix(rng, colours):
    """A random mixture of two of the colours (or of two groups of colours)."""
    one, other = rng.choice(len(colours), 2, replace=False)
    share = rng.random()
    return share * colours[one] + (1 - share) * colours[other]


def _noise(rng, rows, columns, shape=(HEIGHT, WIDTH)):
    """Smooth noise, about -1 to 1, made of random values on a grid of `rows` by `columns`."""
    pillow = optional_import("PIL.Image", "tools")
    grid = rng.uniform(-1, 1, (rows, columns)).astype("float32")
    return np.asarray(pillow.fromarray(grid).resize(shape[::-1], pillow.Resampling.BICUBIC))


def _curve(rng, cells):
    """A smooth random curve over the columns, from 0 to 1."""
    return np.clip(0.5 + 0.5 * _noise(rng, 1, cells, (1, WIDTH))[0], 0, 1)


def _over(image, colour, cover):
    return image + cover * (colour - image)


def _below(edge):
    """How much of each pixel, 0 to 1, lies below a curve over the columns."""
    return np.clip(Y - edge + 0.5, 0, 1)


def _land(rng, lamp_x):
    """The outlines of the landscape: rows, one for each column, that its parts begin at."""
    horizon = rng.uniform(35, 41)
    gap = rng.uniform(12, 24) * np.exp(-(((X - rng.uniform(0, WIDTH)) / 22) ** 2))
    far = 6 + 14 * _curve(rng, 6) + 1.5 * _curve(rng, 24) - gap
    near = 2 + 9 * _curve(rng, 5) + 2 * _curve(rng, 20) - gap
    near = np.maximum(near, 12 * np.exp(-(((X - lamp_x) / 18) ** 2)) + _curve(rng, 20))
    near = np.clip(near, 0, horizon - 21)
    strand = np.clip(near / 4, 0, 1) * (2.5 + 5 * _curve(rng, 4))
    across = X if rng.random() < 0.5 else WIDTH - X
    rise = rng.uniform(9, 15) * (1 - (across / rng.uniform(60, 120)) ** 2)
    return {
        "horizon": horizon,
        "far": horizon - np.clip(far, 0, horizon - 16),
        "near": horizon - near,
        "strand": horizon + strand,
        "shore": HEIGHT + 1 - rise + 1.5 * _curve(rng, 10),
    }


def _landscape(rng, land, mood):
    """Paint sky, hills, sea and beaches. Return the image, the mask and the ripples."""
    zenith, haze, deep, light = mood
    light = light / 255
    horizon = land["horizon"]
    shade = 1 + 0.05 * rng.standard_normal((HEIGHT, WIDTH, 1), "float32")
    patches = _noise(rng, 12, 14)[..., None]
    mottle = 1.4 * _noise(rng, 32, 36)[..., None]

    sky = _over(haze, zenith, np.clip(1 - Y / horizon, 0, 1)[..., None] ** 0.8)
    sun_x, sun_y = rng.uniform(0, WIDTH), rng.uniform(2, 30)
    sun = np.exp(-np.hypot(X - sun_x, Y - sun_y) / 14)[..., None]
    sky = sky + sun * (255 * light - sky) * 0.8
    clouds = _noise(rng, 10, 5) + 0.6 * _noise(rng, 20, 14) + 0.35 * _noise(rng, 48, 36)
    lit = (0.9 + 0.12 * clouds[..., None]) * 250 * light
    clouds = np.clip(1.6 * (clouds + rng.uniform(-0.8, 0.3)), 0, 0.85)
    image = _over(sky, lit, clouds[..., None])

    grass = _mix(rng, GRASS) * rng.uniform(0.75, 1.1)
    meadow = _over(grass, _mix(rng, GRASS), np.clip(0.5 + 2 * patches, 0, 1)) * light
    meadow = meadow * (1 + 0.16 * mottle) * shade
    distant = _over(meadow, haze, rng.uniform(0.35, 0.6))

    sand = _mix(rng, SAND) * rng.uniform(0.9, 1.08) * light
    sand = sand * (1 + 0.06 * patches + 0.03 * mottle) * (2 * shade - 1)
    wet = np.exp(-np.clip(Y - land["shore"], 0, None) / 2)[..., None]
    sand = _over(sand, 0.72 * sand, wet * (horizon + 20 < Y)[..., None])

    # Rows of an even noise, taken ever more sparsely towards the horizon, look like waves
    # seen at a low angle.
    depth = np.clip((Y - horizon) / (HEIGHT - horizon), 0, 1)
    rows = (95 * np.log1p(12 * depth[:, 0]) / np.log(13)).astype(int)
    ripples = (_noise(rng, 44, 14) + 0.8 * _noise(rng, 60, 40))[rows]
    sea = _over(0.45 * haze + 0.55 * deep, deep, np.sqrt(depth)[..., None])
    sea = sea * (1 + 0.12 * ripples[..., None] + 0.06 * patches) * shade
    path = np.exp(-(((X - sun_x) / (6 + 26 * depth)) ** 2)) * rng.uniform(0.3, 1)
    glitter = np.clip(2 * ripples - 1 + path, 0, 1) * (0.12 + path)
    foam = np.exp(-(((Y - land["shore"] + 1.2) / 0.9) ** 2)) * (0.7 + 0.5 * patches[..., 0])
    sea = _over(sea, 255 * light, np.clip(glitter + foam, 0, 0.9)[..., None])

    mask = np.full((HEIGHT, WIDTH), SKY, "uint8")
    for edge, layer, label in (
        (land["far"], distant, HILL),
        (land["near"], meadow, HILL),
        (np.full(WIDTH, horizon, "float32"), sand, BEACH),
        (land["strand"], sea, SEA),
        (land["shore"], sand, BEACH),
    ):
        cover = _below(edge)
        image = _over(image, layer, cover[..., None])
        mask[cover > 0.5] = label
    return image, mask, ripples


def _paint(things, light, supersample=SUPERSAMPLE, shape=(HEIGHT, WIDTH)):
    """Paint polygons, later ones over earlier ones.

    Args:
        things: list of `(label, shapes)`; `shapes` is a list of `(points, colour)`. With the
            label None a thing leaves the mask as it is.
        light: colour of the light, about 1.
        supersample: odd number of samples to a side of a pixel.
        shape: height and width of the image.

    Returns:
        Colours `(height, width, 3)`, cover `(height, width, 1)` from 0 to 1, and the labels
        `(height, width)`, taken at the centres of the pixels, `UNLABELLED` where nothing is.
    """
    pillow, drawing = (optional_import(f"PIL.{name}", "tools") for name in ("Image", "ImageDraw"))
    size = shape[1] * supersample, shape[0] * supersample
    image, labels = pillow.new("RGBA", size), pillow.new("L", size, UNLABELLED)
    draw, draw_label = drawing.Draw(image), drawing.Draw(labels)
    for label, shapes in things:
        for points, colour in shapes:
            xy = (points * supersample - 0.5).ravel().tolist()
            lit = (colour * light).tolist()
            draw.polygon(xy, fill=tuple(min(max(int(c), 0), 255) for c in lit))
            if label is not None:
                draw_label.polygon(xy, fill=label)
    painted = np.asarray(image.reduce(supersample), "float32")
    middle = slice(supersample // 2, None, supersample)
    return painted[..., :3], painted[..., 3:] / 255, np.asarray(labels)[middle, middle]


def _box(left, top, right, bottom):
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _circle(centre, radius, squash=1.0, corners=24):
    angle = 2 * np.pi / corners * np.arange(corners)
    return centre + radius * np.stack([np.cos(angle), squash * np.sin(angle)], axis=1)


def _paint_colour(rng, jitter=14):
    return PAINTS[rng.integers(len(PAINTS))] + rng.normal(0, jitter, 3)


def _tower(lamp, land):
    """The signal: a striped mast on the hill and, behind the lamp, a dark and a white ring."""
    x, y = lamp
    foot = land["near"][int(x)] + 3
    white, dark = np.array([246, 246, 240]), np.array([44, 46, 54])
    mast = []
    for i, (top, bottom) in enumerate(zip(*_steps(y, foot, 6), strict=True)):
        a, b = (1.1 + 0.06 * (level - y) for level in (top, bottom))
        points = np.array([(x - a, top), (x + a, top), (x + b, bottom), (x - b, bottom)])
        mast.append((points, dark if i % 2 else white))
    rings = [(_circle(lamp, LAMP_RADIUS + 2.4), dark), (_circle(lamp, LAMP_RADIUS + 1.7), white)]
    # The label stands for both colours until that of the lamp is known.
    return GREEN, mast + rings


def _steps(start, stop, count):
    """Starts and ends of `count` equal steps."""
    levels = np.linspace(start, stop, count + 1)
    return levels[:-1], levels[1:]


def _ashore(rng, land):
    """Trees and houses on the hill, and clutter: birds in the sky, parasols on the near beach."""
    things: list[tuple[int | None, list]] = []
    near, horizon = land["near"], land["horizon"]
    green = GRASS[rng.integers(len(GRASS))] * 0.6
    # Uphill first, so that the trees below stand in front.
    for x, uphill in zip(rng.uniform(0, WIDTH, 30), np.linspace(1, 0, 30), strict=True):
        hill = horizon - near[int(x)]
        if hill < 3:
            continue
        y = horizon - uphill * hill
        size = rng.uniform(1.6, 3.4)
        colour = green * rng.uniform(0.75, 1.25)
        if rng.random() < 0.5:
            crown = np.array([(x, y - 2 * size), (x + 0.7 * size, y), (x - 0.7 * size, y)])
        else:
            crown = _circle((x, y - 0.8 * size), size * 0.85, corners=9)
        things.append((HILL, [(crown, colour)]))

    town = rng.uniform(0, WIDTH)
    for x in np.clip(rng.normal(town, 16, rng.integers(4, 11)), 3, WIDTH - 3):
        if horizon - near[int(x)] < 4:
            continue
        y, half, tall = horizon - rng.uniform(0, 3), rng.uniform(1.5, 2.8), rng.uniform(2.2, 4)
        roof = [(x - half - 0.5, y - tall), (x + half + 0.5, y - tall), (x, y - 1.7 * tall)]
        walls = 0.4 * PAINTS[rng.integers(len(PAINTS))] + 140
        window = _box(x - 0.5, y - 0.7 * tall, x + 0.5, y - 0.3 * tall)
        shapes = [
            (_box(x - half, y - tall, x + half, y), walls),
            (np.array(roof), np.array([150, 84, 62]) * rng.uniform(0.6, 1.2)),
            (window, np.array([60, 64, 76])),
        ]
        things.append((HILL, shapes))

    for _ in range(rng.integers(0, 6)):
        x, y, span = rng.uniform(4, WIDTH - 4), rng.uniform(4, 30), rng.uniform(1.5, 3.2)
        wings = np.array([(-1, -0.5), (-0.4, -0.6), (0, 0), (0.4, -0.6), (1, -0.5), (0, 0.45)])
        things.append((None, [(wings * span + (x, y), np.full(3, rng.uniform(40, 250)))]))

    for _ in range(rng.integers(0, 5)):
        x = rng.uniform(3, WIDTH - 3)
        y = land["shore"][int(x)] + rng.uniform(4, 8)
        if y < HEIGHT + 1:
            shade = _circle((x, y), rng.uniform(1.6, 2.6), 0.6, 10)
            half = _circle((x, y), 1.2, 0.6, 8)
            things.append((None, [(shade, _paint_colour(rng)), (half, _paint_colour(rng))]))
    return things


def _afloat(rng, land):
    """Pier, buoys and boats, far ones first, as `(waterline, label, shapes)`."""
    things, berths = [_pier(rng)], []
    shore = land["shore"]
    count = int(rng.integers(2, 5))
    slot = WIDTH / count
    for i in range(count):
        x = (i + 0.5 + rng.uniform(-0.15, 0.15)) * slot
        wide = rng.uniform(*{2: (46, 56), 3: (36, 44), 4: (29, 35)}[count])
        left, right = (int(np.clip(x + side * wide / 2, 0, WIDTH - 1)) for side in (-1, 1))
        y = min(rng.uniform(80, 93), shore[left : right + 1].min() - 1)
        tall = min(rng.uniform(0.7, 1.0) * wide, y - BOAT_TOP)
        size = np.array([rng.choice([-1, 1]) * wide, -tall])
        shapes = [(points * size + np.array([x, y]), colour) for points, colour in _boat(rng)]
        # The label stands for both kinds of boat until the colour of the lamp is known.
        things.append((y, INBOUND, shapes))
        berths.append((left - 5, right + 5, y))

    for _ in range(rng.integers(2, 6)):
        x = rng.uniform(5, WIDTH - 5)
        y = min(rng.uniform(59, 92), shore[int(x)] - 2)
        # Behind a boat, only scraps of a buoy would show: it is moved farther out.
        if any(left < x < right and y < waterline for left, right, waterline in berths):
            y = rng.uniform(59, 66)
        things.append((y, BUOY, _buoy(rng, x, y)))
    return sorted(things, key=lambda thing: thing[0])


def _pier(rng):
    """A stone or wooden pier that reaches into the image from the left or the right."""
    length, top = rng.uniform(35, 80), rng.uniform(44, 48)
    deck, wall, slope = rng.uniform(2, 3.5), rng.uniform(4, 6), rng.uniform(-1.5, 1.5)
    stone = _mix(rng, np.array([(170, 164, 152), (128, 98, 72), (120, 122, 130)])) * 0.95
    end = top + slope
    edge, tip = top + deck, end + deck
    shapes = [
        (np.array([(0, top), (length - 4, end), (length, tip), (0, edge)]), stone * 1.15),
        (
            np.array([(0, edge), (length, tip), (length, tip + wall), (0, edge + wall)]),
            stone * 0.75,
        ),
    ]
    for along in rng.uniform(0, length - 3, 18):
        level = top + slope * along / length + deck + rng.uniform(0.3, wall - 1.4)
        block = _box(along, level, along + rng.uniform(1, 3), level + 1)
        shapes.append((block, stone * rng.uniform(0.55, 0.95)))
    for along in np.arange(length - 3, 0, -rng.uniform(8, 14)):
        level = top + slope * along / length + deck
        shapes.append((_box(along - 0.7, level - 3.4, along + 0.7, level), stone * 0.5))
    if rng.random() < 0.5:
        shapes = [(points * [-1, 1] + [WIDTH, 0], colour) for points, colour in shapes]
    return max(edge, tip) + wall, PIER, shapes


def _buoy(rng, x, y):
    """A red or a green buoy, whatever the lamp shows."""
    size = 2.2 + 2.2 * (y - 56) / 36 + rng.uniform(0, 0.6)
    colour = np.array(SIGNALS[str(rng.choice(tuple(SIGNALS)))]) * rng.uniform(0.75, 1.15)
    colour = colour + rng.normal(0, 12, 3)
    dark = np.array([52, 50, 54])
    if rng.random() < 0.5:
        body = np.array([(-1, 0), (-0.6, -2.2), (0.6, -2.2), (1, 0)])
        band = np.array([(-0.85, -0.8), (-0.75, -1.4), (0.75, -1.4), (0.85, -0.8)])
        mark = np.array([(-0.6, -2.7), (0, -3.7), (0.6, -2.7)])
    else:
        body = _circle((0, -0.8), 1.05)
        band = np.array([(-1, -0.6), (-1, -1.1), (1, -1.1), (1, -0.6)])
        mark = _box(-0.5, -3.2, 0.5, -2.3)
    shapes = [
        (_box(-0.22, -2.8, 0.22, -1), dark),
        (body, colour),
        (body * [0.4, 1] + [0.45, 0], colour * 0.75),
        (band, np.array([240, 238, 230])),
        (mark, colour),
    ]
    lean = rng.uniform(-0.2, 0.2)
    shear = np.array([[1, 0], [lean, 1]])
    return [(points @ shear * size + [x, y], colour) for points, colour in shapes]


def _boat(rng):
    """A boat of width 1 and height 1: x from -0.5 to 0.5, y from 0 (waterline) up to 1."""
    hull, trim, cloth = _paint_colour(rng), _paint_colour(rng), _paint_colour(rng)
    if rng.random() < 0.4:
        cloth = PAINTS[0] + rng.normal(0, 6, 3)
    deck, bow = rng.uniform(0.2, 0.28), rng.uniform(0.05, 0.16)
    stern = rng.uniform(0.02, 0.1)
    side = np.array([(-0.5, deck + 0.04), (0.5, deck), (0.5 - stern, 0), (-0.5 + bow, 0)])
    bottom = side * [0.96, 0.3]
    rail = np.array([(-0.5, deck + 0.04), (0.5, deck), (0.49, deck - 0.05), (-0.48, deck - 0.02)])
    shapes = [(side, hull), (bottom, hull * 0.6), (rail, trim)]

    mast = rng.uniform(-0.12, 0.12)
    spar = (_box(mast - 0.018, 1, mast + 0.018, deck), np.array([92, 66, 46]))
    kind = rng.choice(["sloop", "lugger", "fishing"])
    behind, details = [], []
    if kind == "sloop":
        foot = deck + 0.07
        main = np.array([(mast, 0.98), (mast + 0.2, 0.66), (0.47, foot), (mast, foot)])
        jib = np.array([(mast, 0.9), (mast - 0.02, foot), (-0.47, foot)])
        behind = [(jib, cloth * 0.9)]
        band = np.array([(mast, 0.62), (mast + 0.2, 0.6), (mast + 0.24, 0.5), (mast, 0.52)])
    elif kind == "lugger":
        foot, peak = deck + 0.08, rng.uniform(0.78, 0.86)
        main = np.array(
            [(mast - 0.2, peak), (mast + 0.2, 1), (mast + 0.32, foot), (mast - 0.26, foot)]
        )
        for level in (0.45, 0.62, 0.78):
            batten = _box(mast - 0.23, level + 0.01, mast + 0.26, level - 0.015)
            details.append((batten, cloth * 0.7))
        band = _box(mast - 0.23, 0.6, mast + 0.28, 0.48)
    else:
        foot, roof = deck + 0.1, rng.uniform(0.52, 0.62)
        main = np.array([(mast + 0.03, 0.95), (mast + 0.36, foot), (mast + 0.03, foot)])
        behind = [
            (_box(mast - 0.3, roof, mast + 0.06, deck), PAINTS[0] * 0.95),
            (_box(mast - 0.33, roof + 0.05, mast + 0.09, roof), trim),
        ]
        for left in (-0.26, -0.15, -0.04):
            pane = _box(mast + left, roof - 0.05, mast + left + 0.07, roof - 0.16)
            details.append((pane, np.array([56, 70, 88])))
        band = np.array([(mast, 1), (mast + 0.14, 0.97), (mast, 0.93)])
    if kind == "fishing" or rng.random() < 0.5:
        details.append((band, trim))
    fold = main[2] + 0.6 * (main - main[2])
    sail = [(main, cloth), (fold, cloth * 0.9)]
    shear = np.array([[1, 0], [rng.uniform(-0.08, 0.08), 1]])
    return [
        (points @ shear, colour) for points, colour in (*shapes, spar, *behind, *sail, *details)
    ]
