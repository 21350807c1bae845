"""A page in the browser that shows what a model sees, and what each pixel attends to.

    keras_fsa demo --model fsanet.keras

opens http://127.0.0.1:8000. Drop an image on it to see its mask, click a pixel to see what it
attends to, and move the slider to see both at fewer frequencies, without retraining. Without
--model it shows the packaged signal_harbor network. Nothing leaves the machine, and nothing is
downloaded.
"""

import base64
import functools
import io
import json
import threading
import urllib.parse
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import keras
import numpy as np

from keras_fsa.arguments import optional_import
from keras_fsa.attention_map import attention_at
from keras_fsa.classes import activation_of, counted, names_of
from keras_fsa.commands.command import command, named_by_flags
from keras_fsa.commands.data import takes_stored_values
from keras_fsa.commands.models import TrainedModel, load_keras_model
from keras_fsa.commands.predict import attention_layer, position_of_pixel
from keras_fsa.images import read_image
from keras_fsa.inference import class_map
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.models.fsanet import FsaNet
from keras_fsa.settings import Count, Whole
from keras_fsa.truncation import to_frequency
from keras_fsa.visualize import as_rgb, default_palette, overlay

# Images that are kept: a page asks for masks and attention of the last one it sent.
KEPT = 8
LARGEST_FILE = 64 * 2**20


@dataclass(frozen=True)
class Demo:
    """Show in the browser what a model sees, and what each pixel attends to."""

    model: TrainedModel = Path("signal_harbor")
    """A .keras file of an FsaNet, or the name of a trained preset."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: Annotated[int, Whole(0, 65535)] = 8000
    """Port to listen on; 0: any free one."""
    browser: bool = True
    """Open the page in the browser."""
    max_pixels: Count = 4_000_000
    """Refuse images with more pixels than this."""


def main(
    arguments: Sequence[str] | None = None,
    program: str | None = None,
    description: str = __doc__,
) -> None:
    """Run the command, see `keras_fsa.commands.command.command`."""
    command(Demo, demo, arguments, program, description)


def demo(settings: Demo) -> None:
    """Serve the page until the user stops it."""
    with make_server(settings) as server:
        url = f"http://{settings.host}:{server.server_address[1]}"
        print(f"The demo is at {url}. Stop it with Ctrl+C.", flush=True)
        if settings.browser:
            webbrowser.open(url)
        server.serve_forever()


def make_server(settings: Demo) -> ThreadingHTTPServer:
    """A server of the page, already listening."""
    viewer = Viewer(load_keras_model(settings.model), settings.max_pixels)
    return ThreadingHTTPServer(
        (settings.host, settings.port), functools.partial(_Handler, viewer=viewer)
    )


class Viewer:
    """Images that were shown to a model, and what the page asks of them.

    Args:
        model: an `FsaNet` for images of 1 or 3 channels.
        max_pixels: maximum number of pixels of an image.
    """

    def __init__(self, model: keras.Model, max_pixels: int) -> None:
        if not isinstance(model, FsaNet):
            raise ValueError(
                f"`model` must be an FsaNet. Received: a {type(model).__name__} named "
                f"{model.name!r}. Give another file."
            )
        self.channels: Any = model.image_shape[-1]
        if self.channels not in (1, 3):
            raise ValueError(
                "`model` must take RGB or grey images, which are what a page shows. Received: a "
                f"model of {self.channels} channels. Use `keras_fsa predict`."
            )
        self.model = model
        self.max_pixels = max_pixels
        count = model.num_classes
        self.names = names_of(model, count)
        palette = default_palette(count) if model.palette is None else model.palette
        self.palette = np.asarray(palette)
        layer = model.attention_layer()
        self.attends = isinstance(layer, SelfAttention)
        own = getattr(layer, "frequencies", None)
        self.frequencies = own if isinstance(own, int) else None
        self._truncated = {self.frequencies: model}
        self._images: dict[int, np.ndarray] = {}
        self._count = 0
        # One request at a time works with models and images: the engine uses all cores anyway.
        self._lock = threading.Lock()

    def about(self) -> dict[str, Any]:
        """What the page needs to know about the model."""
        return {
            "name": self.model.name,
            "parameters": self.model.count_params(),
            "attends": self.attends,
            "frequencies": self.frequencies,
        }

    def add(self, content: bytes) -> dict[str, Any]:
        """Keep an image; return its number and the image as the model receives it."""
        # The package of datasets may bring TensorFlow's.
        from keras_fsa.datasets.rasters import is_ordinary

        image = read_image(io.BytesIO(content), self.channels, self.max_pixels)
        plain = any(is_ordinary(io.BytesIO(content), channels) for channels in (1, 3))
        if takes_stored_values(self.model) and not plain:
            raise ValueError(
                "An image must be RGB or grey in 8 bits per channel, which are all that a page "
                "shows. Received: another, for a model of the values that files store. Use "
                "`keras_fsa predict`."
            )
        with self._lock:
            self._count += 1
            self._images[self._count] = image
            self._images.pop(self._count - KEPT, None)
            return {"image": self._count, "pixels": _png(as_rgb(image))}

    def mask(self, image: int, frequencies: int | None = None) -> dict[str, Any]:
        """The image overlaid with its classes, and their shares of the pixels in per cent."""
        with self._lock:
            pixels = self._image(image)
            ids = class_map(self._model(frequencies), pixels)
        ids, counts = counted(ids, len(self.names), activation_of(self.model))
        shares = 100 * counts / (ids.shape[0] * ids.shape[1])
        rows = [
            {"name": self.names[i], "colour": self.palette[i].tolist(), "share": float(shares[i])}
            for i in np.argsort(-shares, kind="stable")
            if shares[i]
        ]
        return {"overlay": _png(overlay(pixels, ids, self.palette)), "classes": rows}

    def attention(
        self, image: int, x: int, y: int, frequencies: int | None = None
    ) -> dict[str, Any]:
        """What a pixel attends to: orange for positive weights, blue for negative ones."""
        with self._lock:
            pixels = self._image(image)
            model = self._model(frequencies)
            layer, features = attention_layer(model), model.attention_features(pixels[None])[0]
            row, column = position_of_pixel((x, y), pixels, features, "the image")
            weights = keras.ops.convert_to_numpy(attention_at(layer, features, row, column))
        strength = np.abs(weights) / max(np.abs(weights).max(), 1e-30)
        colours = np.where(weights[..., None] < 0, (33, 113, 181), (217, 95, 2))
        map_ = np.concatenate([colours, 235 * strength[..., None]], axis=-1)
        return {"map": _png(np.round(map_).astype("uint8")), "size": weights.shape[::-1]}

    def _image(self, number):
        if number not in self._images:
            raise ValueError(
                f"`image` must be one of the last {KEPT}. Received: {number}. Send it again."
            )
        return self._images[number]

    def _model(self, frequencies):
        """The model at fewer frequencies; each is created once."""
        if frequencies is not None and self.frequencies is None:
            raise ValueError(
                "`frequencies` needs an attention of so many frequencies, an int. Received: "
                f"frequencies={frequencies}. Leave it out."
            )
        frequencies = frequencies or self.frequencies
        if frequencies not in self._truncated:
            self._truncated[frequencies] = to_frequency(self.model, frequencies)
        return self._truncated[frequencies]


class _Handler(BaseHTTPRequestHandler):
    """The page at `/`; images come by POST to `/images`, and the page asks with GET."""

    def __init__(self, *arguments, viewer):
        self.viewer = viewer
        super().__init__(*arguments)

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if path == "/":
            page = resources.files("keras_fsa.commands").joinpath("demo.html").read_bytes()
            self._send(page, "text/html; charset=utf-8")
            return
        work = {
            "/model": self.viewer.about,
            "/mask": self.viewer.mask,
            "/attention": self.viewer.attention,
        }.get(path)
        if work is None:
            self._send_error(404, f"there is nothing at {path}")
            return
        try:
            numbers = {name: int(value) for name, value in urllib.parse.parse_qsl(query)}
            self._send(json.dumps(work(**numbers)).encode(), "application/json")
        except (TypeError, ValueError) as error:
            self._send_error(400, named_by_flags(str(error), Demo))

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else 0
        if self.path != "/images" or not 0 < size <= LARGEST_FILE:
            self.close_connection = True
            self._send_error(
                413, f"an image of at most {LARGEST_FILE // 2**20} MiB goes to /images"
            )
            return
        try:
            found = self.viewer.add(self.rfile.read(size))
            self._send(json.dumps(found).encode(), "application/json")
        except ValueError as error:
            self._send_error(400, named_by_flags(str(error), Demo))

    def _send(self, content, kind, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def _send_error(self, status, message):
        self._send(json.dumps({"error": message}).encode(), "application/json", status)

    def log_message(self, *_):
        """Requests are not worth a line each."""


def _png(pixels):
    """An array as the data URL of a PNG that a page can show."""
    image = optional_import("PIL.Image", "tools")
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
