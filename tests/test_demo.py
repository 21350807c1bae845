"""The page of `keras_fsa demo`: what it is sent is what the library computes."""

import base64
import http.client
import io
import json
import threading

import keras
import numpy as np
import pytest
from PIL import Image

import keras_fsa
from keras_fsa import commands
from keras_fsa.attention_map import attention_at
from keras_fsa.commands import demo
from keras_fsa.images import read_image
from keras_fsa.inference import class_map
from keras_fsa.visualize import default_palette, overlay
from tests.helpers import array, randomize

pytestmark = pytest.mark.once

PIXELS = np.random.default_rng(3).integers(0, 256, (29, 41, 3)).astype("uint8")
SEED = 11


def model(channels=3):
    keras.utils.set_random_seed(5)
    images = keras.Input((None, None, channels))
    stage5 = keras.layers.Conv2D(6, 3, 4, padding="same", activation="relu")(images)
    backbone = keras.Model(images, {"stage5": stage5})
    model = keras_fsa.FsaNet(
        3,
        backbone,
        frequencies=4,
        head_channels=8,
        auxiliary_loss_weight=0,
        normalization="imagenet" if channels == 3 else (128.0, 10.0),
        image_shape=(None, None, channels),
    )
    randomize(model, np.random.default_rng(SEED))
    return model


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A running server, and its model."""
    path = tmp_path_factory.mktemp("demo") / "model.keras"
    model().save(path)
    settings = demo.Demo(model=path, port=0, browser=False, max_pixels=10_000)
    with demo.make_server(settings) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address, keras.saving.load_model(path, compile=False)
        server.shutdown()


def ask(served, path, body=None):
    """Status and answer of a request: JSON, or text."""
    connection = http.client.HTTPConnection(*served[0], timeout=60)
    connection.request("GET" if body is None else "POST", path, body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, json.loads(text) if text.startswith("{") else text


def decoded(address):
    head, _, data = address.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def send(served, pixels=PIXELS):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    status, found = ask(served, "/images", file.getvalue())
    assert status == 200
    np.testing.assert_array_equal(decoded(found["pixels"]), pixels)
    return found["image"]


def test_the_default_is_the_packaged_network():
    with demo.make_server(demo.Demo(host="0.0.0.0", port=0, browser=False)) as server:
        assert server.server_address[0] == "0.0.0.0"
        about = server.RequestHandlerClass.keywords["viewer"].about()
    network = keras_fsa.FsaNet.from_preset("signal_harbor")
    assert about["name"] == network.name and about["parameters"] == network.count_params()


def test_grey_images():
    network = model(1)
    viewer = demo.Viewer(network, 10_000)
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    found = viewer.add(file.getvalue())
    assert decoded(found["pixels"]).shape == PIXELS.shape
    ids = class_map(network, read_image(io.BytesIO(file.getvalue()), 1))
    rows = viewer.mask(found["image"])["classes"]
    assert len(rows) > 1
    for row in rows:
        assert row["share"] == pytest.approx(100 * np.mean(ids == int(row["name"][-1])))
    assert viewer.attention(found["image"], 3, 5)["size"] == (11, 8)
    # Its normalization is numbers: it takes all 16 bits, of which the page has the upper 8.
    deep = io.BytesIO()
    Image.fromarray(PIXELS[..., 0].astype("uint16") * 257).save(deep, "PNG")
    # So are the indices of a palette, which the page has not.
    palette = io.BytesIO()
    Image.fromarray(PIXELS).quantize(9).save(palette, "PNG")
    for other in (deep, palette):
        with pytest.raises(ValueError, match="8 bits per channel.* Use `keras_fsa predict`"):
            viewer.add(other.getvalue())
    assert demo.Viewer(model(3), 10_000).add(deep.getvalue())["image"] == 1
    with pytest.raises(ValueError, match="must take RGB or grey images.*Received: .* 4 channels"):
        demo.Viewer(model(4), 10_000)


def test_the_page(served):
    status, page = ask(served, "/")
    assert status == 200 and page.startswith("<!doctype html>")
    # It works without a network.
    assert "http" not in page.replace("http-equiv", "")
    status, about = ask(served, "/model")
    assert about == {
        "name": "fsanet",
        "parameters": served[1].count_params(),
        "attends": True,
        "frequencies": 4,
    }


@pytest.mark.parametrize("k", [4, 2])
def test_masks(served, k):
    status, found = ask(served, f"/mask?image={send(served)}&frequencies={k}")
    assert status == 200
    ids = class_map(keras_fsa.to_frequency(served[1], k), PIXELS)
    palette = default_palette(3)
    np.testing.assert_array_equal(decoded(found["overlay"]), overlay(PIXELS, ids, palette))
    shares = {row["name"]: row["share"] for row in found["classes"]}
    counts = 100 * np.bincount(ids.ravel(), minlength=3) / ids.size
    assert shares == pytest.approx({f"class {i}": counts[i] for i in range(3) if counts[i]})
    assert found["classes"] == sorted(found["classes"], key=lambda row: -row["share"])


def test_masks_of_several_classes_at_a_pixel():
    config = model().get_config() | {"activation": "sigmoid", "class_names": ["a", "b", "c"]}
    several = randomize(keras_fsa.FsaNet.from_config(config), np.random.default_rng(SEED))
    viewer = demo.Viewer(several, 10_000)
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    found = viewer.mask(viewer.add(file.getvalue())["image"])
    yes = class_map(several, PIXELS)
    assert yes.shape == (*PIXELS.shape[:2], 3)
    shares = dict(zip("abc", 100 * yes.mean((0, 1)), strict=True))
    assert {row["name"]: row["share"] for row in found["classes"]} == pytest.approx(
        {name: share for name, share in shares.items() if share}
    )
    np.testing.assert_array_equal(
        decoded(found["overlay"]), overlay(PIXELS, yes, default_palette(3))
    )


def test_attention(served):
    status, found = ask(served, f"/attention?image={send(served)}&x=33&y=5")
    assert status == 200
    features = served[1].attention_features(PIXELS[None])[0]
    height, width = features.shape[:2]
    assert found["size"] == [width, height]
    expected = array(
        attention_at(served[1].attention_layer(), features, 5 * height // 29, 33 * width // 41)
    )
    shown = decoded(found["map"])
    assert (expected < 0).any() and (expected > 0).any()
    np.testing.assert_array_equal(shown[..., 2] > 100, expected < 0)
    strength = 235 * np.abs(expected) / np.abs(expected).max()
    np.testing.assert_allclose(shown[..., 3], strength, atol=1)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/nothing", None, 404, "there is nothing at /nothing"),
        ("/mask?image=0", None, 400, "`image` must be one of the last 8. Received: 0"),
        ("/mask?image=1&frequencies=0x", None, 400, "invalid literal"),
        ("/mask?wrong=1", None, 400, "unexpected keyword argument 'wrong'"),
        ("/mask?image=1&frequencies=9", None, 400, "`frequencies`"),
        ("/attention?image=1&x=1000&y=1", None, 400, "must be a pixel of the image"),
        ("/images", b"no image", 400, "Received: an open file: cannot identify image file."),
        ("/images", b"", 413, "at most 64 MiB"),
        ("/elsewhere", b"1", 413, "goes to /images"),
    ],
)
def test_wrong_requests(served, path, body, status, message):
    path = path.replace("image=1", f"image={send(served)}")
    found = ask(served, path, body)
    assert found[0] == status and message in found[1]["error"], found


def test_too_many_pixels(served):
    file = io.BytesIO()
    Image.new("RGB", (200, 100)).save(file, "PNG")
    status, found = ask(served, "/images", file.getvalue())
    assert status == 400 and "raise `--max-pixels`" in found["error"]


def test_old_images_are_forgotten(served):
    first = send(served)
    for _ in range(demo.KEPT):
        send(served)
    assert ask(served, f"/mask?image={first}")[0] == 400


def test_models_that_are_no_fsanet(tmp_path, capsys):
    images = keras.Input((None, None, 3))
    keras.Model(images, keras.layers.Conv2D(2, 1)(images)).save(tmp_path / "other.keras")
    with pytest.raises(SystemExit) as stop:
        commands.main(["demo", "--model", str(tmp_path / "other.keras"), "--port", "0"])
    assert stop.value.code == 2
    assert "`--model` must be an FsaNet. Received: a Functional" in capsys.readouterr().err
