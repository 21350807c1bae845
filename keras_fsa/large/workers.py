"""Where tiles are computed: in this process, or by workers that load the model from its file.

Workers are an executor of `concurrent.futures`, or a client of `dask.distributed`, for one machine
or many. This process alone reads the image and writes the result: tiles travel to the workers and
blocks come back. So nothing is lost with a worker that dies: Dask gives its tiles to another one.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from keras_fsa.compilation import model_in_use
from keras_fsa.large.network import Network, SumModel, TileModel


@dataclasses.dataclass(frozen=True)
class Pass:
    """What is to be done with each tile. It is hashable, and small enough to be sent with each.

    Attributes:
        sizes: height and width of each attention layer's map.
        stop: what is wanted, see `TileModel`.
        output: what the result is: see `keras_fsa.large.segment`.
        shape: of a tile of the layer's map, for sums that need no image; else None.
    """

    sizes: tuple
    stop: int
    output: str
    shape: tuple[int, int] | None = None


class Engine:
    """A model, and the compiled passes of it."""

    def __init__(self, model: keras.Model) -> None:
        self.network = Network(model)
        self.compiled = functools.lru_cache(maxsize=None)(self._compiled)

    def _compiled(self, task):
        if task.shape is None:
            return TileModel(self.network, task.sizes, task.stop, task.output)
        layer = self.network.attention[task.stop]
        return SumModel(
            layer, task.sizes[task.stop], task.shape, self.network.attention_channels[task.stop]
        )

    def run(self, task: Pass, inputs: dict) -> Any:
        """The output of a pass for one tile, as NumPy arrays."""
        if "image" in inputs:
            inputs = {**inputs, "image": inputs["image"].astype("float32")}
        with model_in_use:
            return self.compiled(task).predict_on_batch(inputs)


LOSSES = 10
"""How often a tile may lose its worker before the run is given up."""

# Of a worker: the engine of the model that it had last.
_engine: tuple[str | None, Engine | None] = (None, None)
_loading = threading.Lock()


def _run(source, digest, task, inputs):
    """A tile, on a worker. `source` is a `.keras` file: its path, or its bytes."""
    global _engine
    with _loading:
        last, engine = _engine
        if engine is None or last != digest:
            engine = Engine(_load(source))
            _engine = (digest, engine)
    return engine.run(task, inputs)


def _load(source):
    import keras_fsa  # noqa: F401  (a .keras file needs its layers)

    if not isinstance(source, bytes):
        return keras.saving.load_model(source, compile=False)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        with open(path, "wb") as file:
            file.write(source)
        return keras.saving.load_model(path, compile=False)


def digest_of(model: keras.Model) -> str:
    """A text that differs for models of other weights or settings."""
    digest = hashlib.sha256()
    digest.update(json.dumps(model.get_config(), sort_keys=True, default=str).encode())
    for weight in model.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())  # bfloat16 has no buffer
    return digest.hexdigest()


class Workers:
    """Runs passes over tiles, in order.

    Args:
        model: the model.
        executor: None for this process, an executor, or a client of `dask.distributed`.
        ahead: how many tiles may be on their way.
    """

    def __init__(self, model: keras.Model, executor: Any = None, ahead: int | None = None) -> None:
        self.engine = Engine(model)
        self.executor: Any = None
        self.source: Any = None
        self.client: Any = None
        self.folder: Any = None
        if executor is None:
            return
        self.digest = digest_of(model)
        self.folder = tempfile.TemporaryDirectory()
        path = os.path.join(self.folder.name, "model.keras")
        model.save(path)
        if hasattr(executor, "get_executor"):
            self._check_cluster(executor)
            self.client = executor
            self._send_model()
            self.executor = executor.get_executor(pure=False)
            threads = sum(executor.nthreads().values())
        elif hasattr(executor, "submit"):
            self.executor, self.source = executor, path
            threads = getattr(executor, "_max_workers", os.cpu_count() or 1)
        else:
            raise ValueError(
                "`executor` must be None, an executor of concurrent.futures, or a "
                f"dask.distributed client. Received: executor={executor!r}. Write "
                "executor=dask.distributed.Client(n_workers=2, threads_per_worker=1)."
            )
        self.ahead = ahead or 2 * max(1, threads)

    @staticmethod
    def _check_cluster(client):
        found = client.run(importlib.util.find_spec, "keras_fsa")
        missing = [address for address, spec in found.items() if spec is None]
        if missing:
            raise ImportError(
                "Every worker of a cluster needs this package. Received: workers without "
                f"keras_fsa: {', '.join(missing)}. Run on each: pip install keras_fsa"
            )

    def map(self, task: Pass, inputs: Iterable[dict | None]) -> Iterator[Any]:
        """The output of a pass for each tile, in the order of the tiles; None for None."""
        if self.executor is None:
            for item in inputs:
                yield None if item is None else self.engine.run(task, item)
            return
        window: collections.deque[Any] = collections.deque()
        try:
            for item in inputs:
                window.append((item, item and self._submit(task, item)))
                if len(window) >= self.ahead:
                    yield self._result(task, *window.popleft())
            while window:
                yield self._result(task, *window.popleft())
        finally:
            for _, future in window:
                if future is not None:
                    future.cancel()

    def _result(self, task, item, future):
        for _ in range(LOSSES):
            try:
                return None if future is None else future.result()
            except concurrent.futures.CancelledError:
                # A worker that died took the last copy of the model along, and with it this task.
                if self.client is None:
                    raise
                if self.source.status != "finished":
                    self._send_model()
                future = self._submit(task, item)
        return future.result()

    def _send_model(self):
        with open(os.path.join(self.folder.name, "model.keras"), "rb") as file:
            self.source = self.client.scatter(file.read(), broadcast=True, hash=False)

    def _submit(self, task, item):
        return self.executor.submit(_run, self.source, self.digest, task, item)

    def close(self) -> None:
        """Remove the model's file."""
        if self.folder is not None:
            self.folder.cleanup()
