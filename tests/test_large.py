"""Tiles against the whole image."""

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from keras import layers

import keras_fsa
from keras_fsa import large
from keras_fsa.large import geometry, segment
from keras_fsa.large.network import Network
from keras_fsa.layers import FrequencySelfAttention
from keras_fsa.layers.resize_like import ResizeLike
from keras_fsa.models.folding import fold_batch_norm
from keras_fsa.models.heads import finer_stages
from tests import tiling
from tests.helpers import BACKEND, predict_in_new_process, randomize, run_python
from tests.tiling import small_model

# Sums of some thousand float32 products, in another order.
EXACT = 1e-5
# Each example is compiled anew.
EXAMPLES = {"torch": 10, "tensorflow": 4, "jax": 2}[BACKEND]

attentions = st.one_of(
    st.tuples(
        st.just("frequency"),
        st.sampled_from(("dot_product", "linear", "linear_softmax", "relu_linear")),
        st.integers(1, 3),
    ),
    st.tuples(st.sampled_from((tiling.bands, None)), st.none(), st.just(1)),
    st.tuples(
        st.sampled_from((tiling.mmseg, tiling.without_constant)),
        st.sampled_from(("dot_product", "linear", "linear_softmax")),
        st.integers(1, 2),
    ),
)


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, phases=(Phase.generate,), database=None
)
@given(
    backbone=st.sampled_from(tiling.BACKBONES),
    attention=attentions,
    height=st.integers(17, 60),
    width=st.integers(70, 150),
    tile=st.integers(8, 90),
    align_corners=st.sampled_from((None, False, True)),
)
def test_exact(backbone, attention, height, width, tile, align_corners):
    rng = np.random.default_rng(height)
    keras.utils.set_random_seed(height)
    kind, affinity, recurrence = attention
    chosen = {"attention": kind, "align_corners": align_corners}
    if kind == "frequency":
        chosen |= {"affinity": affinity, "recurrence": recurrence}
    elif kind is not None:
        chosen["attention"] = kind(affinity, recurrence=recurrence) if affinity else kind()
    model = tiling.model_of(backbone, rng, **chosen)
    assert tiling.error(model, tiling.image_of(rng, height, width), tile=tile) < EXACT


def test_every_backbone_is_cut(rng):
    # On an image that is wider than what a tile reads; a halo of 0 shows what there is to lose.
    for backbone in tiling.BACKBONES[: None if BACKEND == "torch" else 1]:
        model = tiling.model_of(backbone, rng)
        image = tiling.image_of(rng, 33, 8 * large.halo(model) + 5)
        assert tiling.error(model, image, tile=16) < EXACT
        assert tiling.error(model, image, tile=16, halo=0) > 100 * EXACT


@pytest.mark.parametrize(
    ("output_stride", "pixels"),
    [(8, 241), (16, 265), (32, 313)][: None if BACKEND == "torch" else 1],
)
def test_resnet(rng, output_stride, pixels):
    model = keras_fsa.FsaNet(
        3, "resnet18", head_channels=8, frequencies=4, output_stride=output_stride
    )
    randomize(model, rng, 0.1)
    model.head.get_layer("attention").gain.assign(5.0)
    halo = large.halo(model)
    assert halo == pixels
    image = tiling.image_of(rng, 33, 2 * halo + 3 * 64 + 17)
    assert tiling.error(model, image, tile=256) < EXACT


FINER = [
    (stride, stage, align_corners)
    for stride in (8, 16, 32)
    for stage in ("stage2", "stage3")
    for align_corners in (None, False, True)
]
SKIPS = ("stage3", "stage2", "stage1")


@pytest.mark.parametrize(
    ("stride", "stage", "align_corners"),
    [(16, SKIPS, None), *(FINER if BACKEND == "torch" else [(32, "stage3", True)])],
)
def test_a_finer_stage(rng, stride, stage, align_corners):
    model = tiling.model_of(
        tiling.stages_of(stride), rng, low_level=stage, align_corners=align_corners
    )
    # Rounded up, its sizes at the two stages are not in the ratio of the strides.
    width = (2 * large.halo(model) + 4 * 64) // stride * stride + 3
    image = tiling.image_of(rng, 2 * stride + 5, width)
    assert tiling.error(model, image, tile=64) < EXACT
    assert tiling.error(model, image, tile=64, halo=0) > 100 * EXACT


def test_attention_at_both_stages(rng):
    """Not an FsaNet: attention before and behind the resizing, and two of them."""
    image = keras.Input((None, None, 3))
    fine = layers.Conv2D(6, 3, 2, padding="same", activation="relu")(image)
    fine = FrequencySelfAttention(2)(fine)
    x = layers.Conv2D(6, 3, 4, padding="same", activation="relu")(fine)
    x = FrequencySelfAttention(3, "linear")(x)
    x = layers.Concatenate()([ResizeLike(True)([x, fine]), fine])
    x = FrequencySelfAttention(3)(layers.Conv2D(6, 3, padding="same")(x))
    x = layers.Conv2D(4, 3, padding="same")(ResizeLike()([x, image]))
    model = randomize(keras.Model(image, x), rng)
    assert tiling.error(model, tiling.image_of(rng, 150, 45), tile=16) < EXACT


def test_several_heads(rng):
    for backbone, arguments in (
        (tiling.padded, {"attention": tiling.mmseg("linear_softmax", num_heads=2)}),
        (tiling.joined, {"affinity": "relu_linear", "num_heads": 4}),
    ):
        model = tiling.model_of(backbone, rng, **arguments)
        image = tiling.image_of(rng, 33, 8 * large.halo(model) + 5)
        assert tiling.error(model, image, tile=16) < EXACT
        assert tiling.error(model, image, tile=16, halo=0) > 100 * EXACT


FLOAT64 = """
import keras
keras.config.set_floatx("float64")
import numpy as np
from tests import tiling
rng = np.random.default_rng(0)
cases = [
    (tiling.same, {"affinity": "dot_product"}),
    (tiling.explicit, {"attention": tiling.mmseg("linear_softmax"), "align_corners": True}),
    (tiling.mixed, {"affinity": "linear"}),
    (tiling.stages_of(16), {"low_level": "stage3", "align_corners": True}),
]
for backbone, settings in cases:
    model = tiling.model_of(backbone, rng, **settings)
    image = tiling.image_of(rng, 37, 131)
    print(tiling.error(model, image, tile=24))
normalized = (image - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
print(np.abs(keras.ops.convert_to_numpy(model.normalize(image[None]))[0] - normalized).max())
"""


def test_float64():
    *errors, normalized = map(float, run_python(FLOAT64, JAX_ENABLE_X64="1").split())
    assert len(errors) == 4 and max(errors) < 1e-10
    assert normalized < 1e-14


@pytest.mark.parametrize("backbone", tiling.BACKBONES[: None if BACKEND == "torch" else 1])
def test_kept_features(rng, backbone):
    model = tiling.model_of(backbone, rng)
    image = tiling.image_of(rng, 33, 141)
    assert tiling.error(model, image, tile=24, keep_features=True) < EXACT
    # Unseen pixels: all of a tile, all but the border of another one.
    image[:, :50] = 0
    settings = {"tile": 24, "nodata": 0, "output": "logits", "verbose": False}
    want = segment(model, image, **settings)
    got = segment(model, image, keep_features=True, **settings)
    assert np.abs(got - want).max() < EXACT * np.abs(want).max()


def test_kept_features_are_made_once(rng):
    """Also with attention in the backbone, which needs a pass of its own."""
    image = keras.Input((None, None, 3))
    x = FrequencySelfAttention(2)(layers.Conv2D(6, 3, 2, padding="same")(image))
    backbone = keras.Model(image, {"stage5": layers.Conv2D(6, 3, 2, padding="same")(x)})
    model = keras_fsa.FsaNet(4, backbone, head_channels=8, frequencies=3, auxiliary_loss_weight=0)
    randomize(model, rng)
    pixels = tiling.image_of(rng, 40, 60)
    assert tiling.error(model, pixels, tile=16) < EXACT
    assert tiling.error(model, pixels, tile=16, keep_features=True) < EXACT
    reads = []

    class Reader:
        shape, dtype = pixels.shape, pixels.dtype

        def __getitem__(self, item):
            reads.append(item)
            return pixels[item]

    segment(model, Reader(), tile=16, keep_features=True, verbose=False)
    assert len(reads) == 2 * 12
    with pytest.raises(ValueError, match="`keep_features` is for models with a backbone"):
        segment(attention_twice(rng), pixels[..., :2], keep_features=True)


@pytest.mark.parametrize(
    ("low_level", "stride"),
    [(SKIPS, 16), ("stage3", 8), ("stage2", 16)][: None if BACKEND == "torch" else 1],
)
def test_kept_features_of_several_stages(rng, low_level, stride, tmp_path):
    """Also where the finer one sees farther to one side, and in files."""

    def backbone(x):
        stages = tiling.stages_of(stride)(x)
        finer = finer_stages(low_level)[-1]
        x = layers.Conv2D(4, (1, 7), padding="same")(stages[finer])
        return {**stages, finer: x}

    model = tiling.model_of(backbone, rng, low_level=low_level)
    image = tiling.image_of(rng, 37, 150)
    assert tiling.error(model, image, tile=32, keep_features=True) < EXACT
    image[:, 30:90] = 0
    settings = {"tile": 32, "nodata": 0, "output": "logits", "verbose": False}
    want = segment(model, image, **settings)
    got = segment(model, image, keep_features=True, work_dir=tmp_path, **settings)
    assert np.abs(got - want).max() < EXACT * np.abs(want).max()
    assert [path.name for path in sorted(tmp_path.glob("*.zarr"))] == [
        f"features_{n}.zarr" for n in range(1 + len(finer_stages(low_level)))
    ]


def test_kept_features_where_backbone_and_head_resize(rng):
    stage5 = keras.Input((None, None, 8))
    x = FrequencySelfAttention(2)(stage5)
    x = ResizeLike()([layers.MaxPooling2D(2, padding="same")(x), x])
    head = keras.Model(stage5, layers.Conv2D(5, 3, padding="same")(x))
    model = tiling.model_of(tiling.joined, rng, head=head)
    image = tiling.image_of(rng, 33, 141)
    assert tiling.error(model, image, tile=24, keep_features=True) < EXACT


def attention_twice(rng):
    """Not an FsaNet: attention at two strides, one map read again behind the other."""
    image = keras.Input((None, None, 2))
    x = layers.Conv2D(6, 3, 2, padding="same")(image)
    first = FrequencySelfAttention(3, "linear")(x)
    x = layers.Conv2D(6, 3, 2, padding="same", activation="relu")(first)
    x = FrequencySelfAttention(2, recurrence=2)(x)
    x = layers.Concatenate()([x, layers.AveragePooling2D(2, padding="same")(first)])
    return randomize(keras.Model(image, layers.Conv2D(4, 1)(x)), rng)


def test_attention_in_several_places(rng):
    model = attention_twice(rng)
    image = tiling.image_of(rng, 41, 90, 2)
    want = np.asarray(model.predict_on_batch(image[None]))[0]
    want = np.asarray(keras_fsa.resize.resize_bilinear(want[None], 41, 90))[0]
    got = segment(model, image, tile=16, output="logits", verbose=False)
    assert np.abs(got - want).max() < EXACT * np.abs(want).max()


def beside_its_input(rng):
    """A graph whose input is read again behind the attention."""
    image = keras.Input((None, None, 2))
    x = layers.Conv2D(4, 3, padding="same")(image)
    x = layers.Concatenate()([image, FrequencySelfAttention(3)(x)])
    return randomize(keras.Model(image, layers.Conv2D(4, 1)(x)), rng)


@pytest.mark.parametrize("make", [beside_its_input, lambda rng: fold_batch_norm(small_model())])
def test_the_model_stays_as_it_was(rng, tmp_path, make):
    """Parts of its graph are models of their own, yet it can be saved, and nothing adds up."""
    model = make(rng)
    channels = model.input_shape[-1] if hasattr(model, "output") else 3
    image = tiling.image_of(rng, 33, 47, channels)
    want = model.predict_on_batch(image[None])
    graph = getattr(model, "head", model)
    calls = [(len(o._inbound_nodes), len(o._outbound_nodes)) for o in graph.operations]
    for _ in range(2):
        segment(model, image, tile=16, verbose=False)
    assert calls == [(len(o._inbound_nodes), len(o._outbound_nodes)) for o in graph.operations]
    (got,) = predict_in_new_process({"it": model}, {"it": image[None]}, tmp_path).values()
    np.testing.assert_allclose(got, want, atol=EXACT * np.abs(want).max())


def test_outputs(rng):
    model = randomize(small_model(), rng)
    image = tiling.image_of(rng, 30, 45)
    logits = model.predict_on_batch(image[None])[0]
    classes = segment(model, image, tile=16, verbose=False)
    assert classes.dtype == "uint8" and np.mean(classes == logits.argmax(-1)) > 0.999
    scores = segment(model, image, tile=64, output="probabilities", verbose=False)
    want = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(scores, want, atol=1e-5)
    sink = np.zeros((30, 45), "uint8")
    assert segment(model, image, sink, tile=16, verbose=False) is sink
    np.testing.assert_array_equal(sink, classes)


def test_anything_that_slices(rng, tmp_path):
    import dask.array
    import tifffile
    import zarr

    model = randomize(small_model(), rng)
    image = tiling.image_of(rng, 30, 45)
    want = segment(model, image, tile=16, verbose=False)
    np.save(tmp_path / "image.npy", image)
    tifffile.imwrite(tmp_path / "image.tif", image, tile=(16, 16), photometric="rgb")
    stored = zarr.create_array(tmp_path / "image.zarr", data=image, chunks=(8, 8, 3))
    result = zarr.create_array(tmp_path / "out.zarr", shape=(30, 45), dtype="uint8", chunks=(9, 9))
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        sources = {
            "memmap": np.load(tmp_path / "image.npy", mmap_mode="r"),
            "zarr": stored,
            "dask": dask.array.from_array(image, chunks=(7, 11, 3)),
            "tiff": zarr.open(file.aszarr(), mode="r"),
        }
        for name, source in sources.items():
            got = segment(model, source, result, tile=16, verbose=False)[:]
            np.testing.assert_array_equal(got, want, err_msg=name)


def test_memory_is_that_of_a_tile(rng):
    """What is read at a time does not grow with the image."""

    class Reader:
        dtype = np.dtype("uint8")
        largest = 0

        def __init__(self, shape):
            self.shape = shape

        def __getitem__(self, item):
            block = np.ones([s.stop - s.start for s in item] + [3], "uint8")
            Reader.largest = max(Reader.largest, block.size)
            return block

    model = randomize(small_model(), rng)
    largest = []
    for size in (96, 192):
        Reader.largest = 0
        segment(model, Reader((size, size, 3)), tile=32, verbose=False)
        largest.append(Reader.largest)
    # 9 pixels on each side, and a position more for the resizing.
    assert largest[0] == largest[1] == 3 * (32 + 2 * 11) ** 2


def whole_with_nodata(model, image, seen):
    """The definition of nodata, on the whole image at once."""
    network = Network(model)
    ((backbone, parts), (_, head)) = network.graphs
    del parts
    x = keras.ops.convert_to_tensor(np.where(seen[..., None], image, 0)[None], "float32")
    x = network.normalize(x)
    x = x * keras.ops.convert_to_tensor(seen[None, :, :, None].astype("float32"))
    feature = backbone(x, training=False)
    (before, attention, _), (after, _, _) = head
    x = before(feature, training=False)
    height, width = x.shape[1:3]
    stride = -(-image.shape[0] // height)
    first = [
        [min(i * stride, n - 1) for i in range(m)] for m, n in zip((height, width), seen.shape)
    ]
    weight = [[seen[i : i + stride, j : j + stride].mean() for j in first[1]] for i in first[0]]
    weight = keras.ops.convert_to_tensor(np.array(weight, "float32")[None, :, :, None])
    y = x + attention.map_update(x * weight, training=False)
    logits = after([feature, y], training=False)
    logits = keras_fsa.resize.resize_bilinear(logits, *image.shape[:2])
    return np.where(seen[..., None], keras.ops.convert_to_numpy(logits)[0], 0)


@pytest.mark.parametrize("affinity", ["dot_product", "linear_softmax"])
def test_nodata(rng, affinity):
    model = tiling.model_of(tiling.explicit, rng, affinity=affinity)
    image = tiling.image_of(rng, 36, 120).astype("float32")
    seen = np.ones((36, 120), bool)
    seen[:, 50:] = rng.random((36, 70)) < 0.3
    seen[:, :21] = seen[10:20] = False
    image[~seen] = np.nan
    want = whole_with_nodata(model, image, seen)
    got = segment(model, image, tile=12, nodata=np.nan, output="logits", verbose=False)
    assert np.abs(got - want).max() < EXACT * np.abs(want).max()
    image[~seen] = 7.5  # A value that one channel may have.
    image[30, 30:35, 1] = 7.5
    classes = segment(model, image, tile=12, nodata=7.5, verbose=False)
    np.testing.assert_array_equal(classes == 255, ~seen)
    assert (classes == want.argmax(-1))[seen].mean() > 0.99


def test_halo_is_that_of_the_gradient():
    """What a position sees, from the graph, against which pixels change it."""
    size = 83
    for backbone in tiling.BACKBONES:
        image = keras.Input((None, None, 1))
        graph = keras.Model(image, backbone(image))
        for weight in graph.weights:  # Nothing cancels, nothing is cut off.
            weight.assign(keras.ops.abs(weight) + 0.1)
        view = geometry.views(graph, [geometry.View(size)], 0)[id(graph.output)]
        base = np.ones((size, 16, 16, 1), "float32") * np.linspace(1, 2, size)[:, None, None, None]
        x = np.repeat(base[:, :1, :1, 0].reshape(1, size, 1, 1), 16, 2)
        before = np.asarray(keras.ops.convert_to_numpy(graph(x)))[0]
        assert len(before) == view.size
        changed = np.zeros((view.size, size), bool)
        for pixel in range(size):
            moved = x.copy()
            moved[0, pixel] += 1000
            after = keras.ops.convert_to_numpy(graph(moved))[0]
            changed[:, pixel] = np.abs(after - before).max((1, 2)) > 1e-2
        for position, row in enumerate(changed):
            low, high = view.seen(position, position + 1)
            pixels = np.flatnonzero(row)
            assert len(pixels) and low <= pixels[0] and pixels[-1] < high
        if backbone in (tiling.same, tiling.explicit):
            middle = view.size // 2
            low, high = view.seen(middle, middle + 1)
            pixels = np.flatnonzero(changed[middle])
            assert (low, high) == (pixels[0], pixels[-1] + 1)
        del base


def squeeze(x):
    return x * layers.GlobalAveragePooling2D(keepdims=True)(x)


def test_models_that_are_refused(rng):
    image = np.zeros((40, 40, 3), "uint8")

    def run(model, **settings):
        segment(model, image, verbose=False, **settings)

    with pytest.raises(ValueError, match="every layer sees a neighbourhood.*GlobalAveragePooling"):
        run(tiling.model_of(squeeze, rng))
    with pytest.raises(ValueError, match="has an output padding"):
        run(tiling.model_of(lambda x: layers.Conv2DTranspose(4, 3, 2, "same", 0)(x), rng))
    with pytest.raises(ValueError, match=r"Attention between positions.*to_frequency\(model"):
        run(small_model(attention="spatial"))
    with pytest.raises(ValueError, match="images of any size.*image_shape="):
        run(small_model(image_shape=(40, 40, 3)))
    with pytest.raises(ValueError, match="an FsaNet, or a functional model"):
        run(keras.Sequential([layers.Conv2D(3, 3)]))
    inner_input = keras.Input((None, None, 3))
    inner = keras.Model(inner_input, FrequencySelfAttention(2)(inner_input))
    outer = keras.Model(inner_input, inner(inner_input))
    with pytest.raises(ValueError, match="not in a model within it"):
        run(outer)
    coarse = layers.MaxPooling2D()(inner_input)
    inner = keras.Model(inner_input, ResizeLike()([coarse, inner_input]))
    with pytest.raises(ValueError, match="not in a model within it.*resize_like"):
        run(keras.Model(inner_input, inner(inner_input)))


@pytest.mark.once
def test_values_that_were_not_seen(rng):
    """A number of NumPy's in an image of another precision; an image's own mask beside a value."""
    model = randomize(small_model(), rng)
    image = tiling.image_of(rng, 30, 45).astype("float32")
    image[:7] = -9999.1
    settings = {"tile": 16, "verbose": False}
    want = segment(model, image, nodata=-9999.1, **settings)
    assert (want[:7] == 255).all() and (want[7:] < 5).all()
    np.testing.assert_array_equal(
        segment(model, image, nodata=np.float64(-9999.1), **settings), want
    )

    class Masked(np.ndarray):
        nodata = np.nan

    masked = image.copy().view(Masked)
    masked[20:] = np.nan
    found = segment(model, masked, nodata=-9999.1, **settings)
    assert ((found == 255).all(axis=1) == [*[True] * 7, *[False] * 13, *[True] * 10]).all()
    assert (found == 255).sum() == 17 * 45
    with pytest.raises(ValueError, match="`nodata` must be a number, NaN included.*'nan'"):
        segment(model, image, nodata="nan", **settings)


@pytest.mark.once
def test_many_answers_at_a_pixel(rng):
    """They are 0 and 1, however many."""
    image = keras.Input((None, None, 3))
    model = randomize(keras.Model(image, layers.Conv2D(300, 1)(image)), rng)
    model.activation = "sigmoid"
    found = segment(model, tiling.image_of(rng, 9, 11), tile=8, nodata=0, verbose=False)
    assert found.dtype == "uint8" and found.shape == (9, 11, 300)
    assert set(np.unique(found)) == {0, 1}


def test_arguments_that_are_refused(rng):
    model = randomize(small_model(), rng)
    image = tiling.image_of(rng, 40, 40)

    def run(image=image, sink=None, **settings):
        segment(model, image, sink, verbose=False, **settings)

    with pytest.raises(ValueError, match="`tile` must be at least the model's coarsest stride"):
        run(tile=1)
    with pytest.raises(ValueError, match="`tile` must be a positive int"):
        run(tile=0)
    with pytest.raises(ValueError, match="`halo` must be a non-negative int"):
        run(halo=-1)
    with pytest.raises(ValueError, match="`output` must be one of"):
        run(output="masks")
    with pytest.raises(ValueError, match=r"`image` must be an array of the shape \(H, W, 3\)"):
        run(image[..., :2])
    with pytest.raises(ValueError, match=r"`sink` must have the shape \(40, 40\)"):
        run(sink=np.zeros((40, 41), "uint8"))
    for output, dtype in (("classes", "int8"), ("probabilities", "uint8"), ("logits", "int32")):
        shape = (40, 40) if output == "classes" else (40, 40, 5)
        with pytest.raises(ValueError, match=f"`sink` must hold .* sink of dtype {dtype}, which"):
            run(sink=np.zeros(shape, dtype), output=output)
    inputs = keras.Input((None, None, 3))
    many = keras.Model(inputs, layers.Conv2D(300, 1)(inputs))
    with pytest.raises(ValueError, match="class 255, which must not be one of the model's.*300"):
        segment(many, image, nodata=0, verbose=False)
    frozen = np.zeros((40, 40), "uint8")
    frozen.flags.writeable = False
    for sink in (frozen, object()):
        with pytest.raises(ValueError, match=r"`sink` must take sink\[rows, columns\]"):
            run(sink=sink)
    with pytest.raises(ValueError, match="`executor` must be None, an executor"):
        run(executor="threads")
    with pytest.raises(ValueError, match="must have pixels that were seen"):
        run(np.zeros((40, 40, 3), "uint8"), nodata=0)
    spoiled = image.astype("float32")
    spoiled[25, 3] = np.nan
    with pytest.raises(FloatingPointError, match="pixels .*rows 16 to 31 and columns 0 to 15"):
        run(spoiled, tile=16, halo=0)
    broken = attention_twice(rng)
    broken.layers[1].bias.assign(np.full(6, np.inf))
    with pytest.raises(FloatingPointError, match="share of the tokens .*rows 0 to 15 and columns"):
        segment(broken, image[..., :2], tile=16, verbose=False)
