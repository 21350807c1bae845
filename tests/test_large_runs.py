"""Runs over large images: killed and resumed, on workers, from files to files."""

import concurrent.futures
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from keras_fsa.files import locked_folder
from keras_fsa.inference import class_map
from keras_fsa.large import open_image, overview, save_classes, segment, workers
from tests import tiling
from tests.helpers import randomize
from tests.tiling import small_model

EXAMPLE = Path(__file__).parent.parent / "examples/segment_large.py"


class Stops:
    """An image, or a sink, that fails after some tiles, as a full disk or a killed process does."""

    def __init__(self, array, after):
        self.array, self.left = array, after
        self.shape, self.dtype = array.shape, array.dtype

    def _count(self):
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")

    def __getitem__(self, item):
        # The blocks that tell images apart are no tiles.
        if item[0].stop - item[0].start > 16:
            self._count()
        return self.array[item]

    def __setitem__(self, item, block):
        self._count()
        self.array[item] = block


@pytest.fixture
def case(rng):
    """12 tiles; three passes over positions or the image, then one for the result."""
    model = randomize(small_model(affinity="linear_softmax"), rng)
    image = tiling.image_of(rng, 50, 61)
    settings = {"tile": 16, "output": "logits", "verbose": False}
    return model, image, settings, segment(model, image, **settings)


def test_resume(case, tmp_path, monkeypatch):
    model, image, settings, want = case
    monkeypatch.setattr("keras_fsa.large.journal.Journal.due", lambda self: self.folder is not None)
    for after in (5, 14, 3):
        with pytest.raises(OSError, match="No space left"):
            segment(model, Stops(image, after), work_dir=tmp_path, **settings)
    reader = Stops(image, 1000)
    got = segment(model, reader, work_dir=tmp_path, **settings)
    np.testing.assert_array_equal(got, want)
    # 16 tiles, twice: what is done is not done again.
    assert 1000 - reader.left == 32 - 5 - 14 - 3
    # All is there: nothing is computed.
    np.testing.assert_array_equal(
        segment(model, Stops(image, 0), work_dir=tmp_path, **settings), want
    )


def test_resume_with_kept_features(case, tmp_path, monkeypatch):
    model, image, settings, _ = case
    settings = {**settings, "keep_features": True}
    want = segment(model, image, **settings)
    monkeypatch.setattr("keras_fsa.large.journal.Journal.due", lambda self: self.folder is not None)
    with pytest.raises(OSError, match="No space left"):
        segment(model, Stops(image, 9), work_dir=tmp_path, **settings)
    # All that is left to read are the other tiles, and those once.
    got = segment(model, Stops(image, 16 - 9), work_dir=tmp_path, **settings)
    np.testing.assert_array_equal(got, want)


def test_resume_after_a_sink_that_failed(case, tmp_path):
    model, image, settings, want = case
    result = np.zeros(want.shape, "float32")
    with pytest.raises(OSError, match="No space left"):
        segment(model, image, Stops(result, 4), work_dir=tmp_path, **settings)
    segment(model, image, result, work_dir=tmp_path, **settings)
    np.testing.assert_array_equal(result, want)


@pytest.mark.once
def test_results_that_are_gone(case, tmp_path, monkeypatch):
    """Tiles are done where they were written to; elsewhere the last pass is done again."""
    model, image, settings, want = case
    folder = tmp_path / "work"
    segment(model, image, work_dir=folder, **settings)
    (folder / "result.npy").unlink()
    np.testing.assert_array_equal(segment(model, image, work_dir=folder, **settings), want)
    memory = np.full(want.shape, 77, "float32")
    segment(model, image, memory, work_dir=folder, **settings)
    np.testing.assert_array_equal(memory, want)

    def file(name, mode):
        return np.lib.format.open_memmap(tmp_path / name, mode, "float32", want.shape)

    for name, mode in (("a.npy", "w+"), ("b.npy", "w+"), ("b.npy", "w+")):
        result = file(name, mode)
        segment(model, image, result, work_dir=folder, **settings)
        np.testing.assert_array_equal(result, want)
    # Opened as it was left, there is nothing to do.
    segment(model, Stops(image, 0), file("b.npy", "r+"), work_dir=folder, **settings)
    (folder / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"`work_dir` must be empty.*no settings\.json to say"):
        segment(model, image, work_dir=folder, **settings)


@pytest.mark.once
def test_weights_in_bfloat16(rng, tmp_path):
    model = randomize(small_model(dtype="bfloat16"), rng)
    image = tiling.image_of(rng, 30, 45)
    want = segment(model, image, tile=16, verbose=False)
    got = segment(model, image, tile=16, work_dir=tmp_path, verbose=False)
    np.testing.assert_array_equal(got, want)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="The system reserves no space.")
def test_a_disk_without_room_for_the_result(case, tmp_path, monkeypatch):
    """Known before the work: a mapped file that finds no space ends the process."""
    model, image, settings, want = case

    def full(file, start, size):
        assert start == 0 and size > want.nbytes
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            segment(model, Stops(image, 0), work_dir=tmp_path, **settings)
    np.testing.assert_array_equal(segment(model, image, work_dir=tmp_path, **settings), want)


def test_another_run_is_refused(case, tmp_path, rng):
    model, image, settings, _ = case
    segment(model, image, work_dir=tmp_path, **settings)
    for name, change in {
        "tile": {"tile": 32},
        "output": {"output": "classes"},
        "halo": {"halo": 3},
    }.items():
        with pytest.raises(ValueError, match=f"of a run with another {name}.*Name another"):
            segment(model, image, work_dir=tmp_path, **{**settings, **change})
    with pytest.raises(ValueError, match="another image"):
        segment(model, image + 1, work_dir=tmp_path, **settings)
    weight = model.weights[0]
    weight.assign(weight + 1)
    with pytest.raises(ValueError, match="another model"):
        segment(model, image, work_dir=tmp_path, **settings)


KILLED = """
import os, sys
import keras, keras_fsa, numpy as np
from keras_fsa.large import journal, segment
journal.Journal.due = lambda self: self.folder is not None
class Slow:
    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.left = 21
    def __getitem__(self, item):
        self.left -= item[0].stop - item[0].start > 16
        if self.left == 0:
            os.kill(os.getpid(), 9)
        return self.array[item]
folder = sys.argv[1]
segment(keras.saving.load_model(folder + "/model.keras"), Slow(np.load(folder + "/image.npy")),
    tile=16, output="logits", verbose=False, work_dir=folder + "/work")
"""


def test_killed(case, tmp_path):
    model, image, settings, want = case
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "image.npy", image)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    reader = Stops(image, 1000)
    got = segment(loaded, reader, work_dir=tmp_path / "work", **settings)
    np.testing.assert_array_equal(got, want)
    assert 1000 - reader.left == 32 - 20


def test_threads(case):
    model, image, settings, want = case
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        got = segment(model, image, executor=executor, **settings)
    np.testing.assert_array_equal(got, want)


def test_many_threads_at_once(case):
    """Each segments an image of its own with the same model, beside others that predict."""
    model, image, settings, want = case
    classes = class_map(model, image)

    def one(number):
        if number % 2:
            return class_map(model, image)
        return segment(model, image, **settings)

    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        found = list(executor.map(one, range(8)))
    for number, got in enumerate(found):
        np.testing.assert_array_equal(got, classes if number % 2 else want)


def test_cluster_and_a_worker_that_is_killed(case):
    import distributed

    model, image, settings, want = case
    with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        got = segment(model, image, executor=client, **settings)
        np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())
        # Each has loaded the model once, however many tiles it had.
        loaded = client.run(lambda: __import__("keras_fsa").large.workers._engine[0])
        assert len(loaded) == 2 and len(set(loaded.values())) == 1
        victim = next(iter(client.run(os.getpid).values()))
        reader = Kills(image, victim)
        again = segment(model, reader, executor=client, **settings)
        assert reader.left < 0
        np.testing.assert_array_equal(again, got)


def test_cluster_that_loses_the_model(case, monkeypatch):
    import distributed

    model, image, settings, want = case
    sent = []
    send = workers.Workers._send_model

    def send_and_lose_the_first(self):
        send(self)
        sent.append(self.source)
        if len(sent) == 1:
            self.client.cancel([self.source], force=True)

    monkeypatch.setattr(workers.Workers, "_send_model", send_and_lose_the_first)
    with distributed.Client(n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        got = segment(model, image, executor=client, **settings)
    assert len(sent) == 2
    np.testing.assert_allclose(got, want, atol=1e-6 * np.abs(want).max())


class Kills(Stops):
    """An image in the middle of which a worker dies."""

    def __init__(self, array, victim):
        super().__init__(array, 20)
        self.victim = victim

    def _count(self):
        self.left -= 1
        if self.left == 0:
            os.kill(self.victim, signal.SIGKILL)


def test_cluster_without_the_package():
    class Client:
        def run(self, function, name):
            return {"tcp://one": None, "tcp://two": function(name)}

    with pytest.raises(ImportError, match="workers without keras_fsa: tcp://one"):
        workers.Workers._check_cluster(Client())


def geotiff(path, image, **profile):
    import rasterio

    height, width, count = image.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=count,
        dtype=image.dtype,
        **profile,
    ) as file:
        file.write(np.moveaxis(image, -1, 0))


def test_geotiff(rng, tmp_path):
    import rasterio

    transform = rasterio.transform.from_origin(500_000, 4_600_000, 10, 10)
    image = rng.integers(1, 4000, (70, 90, 4)).astype("uint16")
    image[:, 80:] = 0
    geotiff(tmp_path / "a.tif", image, crs="EPSG:32633", transform=transform, nodata=0)
    opened = open_image(tmp_path / "a.tif")
    assert (opened.shape, opened.dtype, opened.nodata) == (image.shape, "uint16", 0)
    np.testing.assert_array_equal(opened[3:40, 50:90], image[3:40, 50:90])
    np.testing.assert_array_equal(overview(opened, 30), image[::3, ::3])
    classes = rng.integers(0, 5, (70, 90)).astype("uint8")
    palette = [(10, 20, 30), (40, 50, 60)]
    save_classes(tmp_path / "out/b.tif", classes, like=opened, palette=palette)
    with rasterio.open(tmp_path / "out/b.tif") as file:
        assert (file.crs, file.transform, file.nodata) == ("EPSG:32633", transform, 255)
        assert file.colormap(1)[1][:3] == (40, 50, 60)
        np.testing.assert_array_equal(file.read(1), classes)
    large = np.zeros((600, 300), "uint8")
    save_classes(tmp_path / "large.tif", large)
    with rasterio.open(tmp_path / "large.tif") as file:
        assert file.overviews(1) == [2] and file.block_shapes == [(256, 256)]


@pytest.mark.once
def test_ground_control_points(rng, tmp_path):
    import rasterio

    point = rasterio.control.GroundControlPoint
    points = [point(0, 0, 10, 50), point(0, 90, 11, 50), point(70, 0, 10, 49)]
    rpcs = rasterio.rpc.RPC(
        0, 1, 50, 1, [1.0] * 20, [1.0] * 20, 35, 35, 10, 1, [1.0] * 20, [1.0] * 20, 45, 45
    )
    image = tiling.image_of(rng, 70, 90)
    geotiff(tmp_path / "a.tif", image, gcps=points, crs="EPSG:4326")
    geotiff(tmp_path / "b.tif", image, rpcs=rpcs)
    for name in ("a", "b"):
        opened = open_image(tmp_path / f"{name}.tif")
        save_classes(tmp_path / f"{name}_classes.tif", image[..., 0], like=opened)
        with rasterio.open(tmp_path / f"{name}_classes.tif") as file:
            assert file.gcps[1] == opened.file.gcps[1] and file.rpcs == opened.file.rpcs
            kept = [(p.row, p.col, p.x, p.y) for p in file.gcps[0]]
            assert kept == [(p.row, p.col, p.x, p.y) for p in opened.file.gcps[0]]
            assert len(kept) == (3 if name == "a" else 0) and (file.rpcs is None) == (name == "a")


def test_slide(rng, tmp_path):
    import openslide  # noqa: F401
    import tifffile

    # A generic tiled TIFF, which OpenSlide takes for a slide.
    image = tiling.image_of(rng, 100, 80)
    tifffile.imwrite(tmp_path / "slide.tif", image, tile=(32, 32), photometric="rgb")
    os.rename(tmp_path / "slide.tif", tmp_path / "slide.svs")
    opened = open_image(tmp_path / "slide.svs")
    assert opened.shape == (100, 80, 3)
    np.testing.assert_array_equal(opened[20:70, 5:80], image[20:70, 5:80])


def ome_zarr(path, array, names, zarr_format):
    """An image of version 0.4 (Zarr 2) or 0.5 (Zarr 3), in micrometres of 0.5 x 0.25."""
    import zarr

    group = zarr.create_group(path, zarr_format=zarr_format)
    group.create_array("full", data=array, chunks=array.shape)
    axes = [
        {"name": name, "type": "space", "unit": "micrometer"}
        if name in "zyx"
        else {"name": name, "type": {"t": "time", "c": "channel"}[name]}
        for name in names
    ]
    scale = [{"y": 0.5, "x": 0.25}.get(name, 1.0) for name in names]
    levels = [{"path": "full", "coordinateTransformations": [{"type": "scale", "scale": scale}]}]
    image = {"axes": axes, "datasets": levels}
    if zarr_format == 2:
        group.attrs["multiscales"] = [{**image, "version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}


@pytest.mark.parametrize(("names", "zarr_format"), [("tczyx", 2), ("cyx", 3), ("yx", 3)])
def test_ome_zarr(rng, tmp_path, names, zarr_format):
    import zarr
    from ome_zarr_models.v05.image_label import ImageLabel

    channels = 3 if "c" in names else 1
    image = tiling.image_of(rng, 1030, 70, channels)
    stored = image.transpose(2, 0, 1) if "c" in names else image[..., 0]
    if names == "tczyx":
        stored = stored[None, :, None]
    ome_zarr(tmp_path / "a.zarr", stored, names, zarr_format)
    opened = open_image(tmp_path / "a.zarr")
    assert (opened.shape, opened.dtype) == (image.shape if "c" in names else (1030, 70), "uint8")
    block = opened[3:40, 50:69]
    np.testing.assert_array_equal(block.reshape(37, 19, channels), image[3:40, 50:69])
    classes = rng.integers(0, 5, (1030, 70)).astype("uint8")
    palette = [(10, 20, 30), (40, 50, 60)]
    for _ in range(2):  # The second replaces the first.
        save_classes(tmp_path / "out/b.zarr", classes, like=opened, palette=palette)
    group = zarr.open_group(tmp_path / "out/b.zarr", mode="r")
    # What another reader of the format makes of it.
    label = ImageLabel.from_zarr(group).attributes.ome
    (multiscale,) = label.multiscales
    assert [(axis.name, axis.unit) for axis in multiscale.axes] == [
        ("y", "micrometer"),
        ("x", "micrometer"),
    ]
    scales = [item.coordinateTransformations[0].scale for item in multiscale.datasets]
    assert scales == [[0.5, 0.25], [1.0, 0.5], [2.0, 1.0]]
    assert label.image_label.colors[1].rgba == (40, 50, 60, 255)
    for i, item in enumerate(multiscale.datasets):
        np.testing.assert_array_equal(group[item.path][:], classes[:: 2**i, :: 2**i])
    np.testing.assert_array_equal(open_image(tmp_path / "out/b.zarr")[9:20, :], classes[9:20])


def test_files_that_are_refused(tmp_path):
    import zarr

    (tmp_path / "a.xyz").touch()
    with pytest.raises(ValueError, match=r"file of a known kind.*\.svs.*a\.xyz"):
        open_image(tmp_path / "a.xyz")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_image(tmp_path / "b.tif")
    classes = np.zeros((3, 3), "uint8")
    with pytest.raises(ValueError, match=r"\.tif, \.tiff, \.zarr or \.npy.*Name one"):
        save_classes(tmp_path / "c.png", classes)
    zarr.create_group(tmp_path / "group.zarr")
    with pytest.raises(ValueError, match=r"array or an OME-Zarr image.*without `multiscales`"):
        open_image(tmp_path / "group.zarr")
    with pytest.raises(ValueError, match=r"new, or a label image to replace.*holds something"):
        save_classes(tmp_path / "group.zarr", classes)
    ome_zarr(tmp_path / "planes.zarr", np.zeros((2, 4, 4), "uint8"), "zyx", 3)
    with pytest.raises(ValueError, match="one plane at most.*'z': 2"):
        open_image(tmp_path / "planes.zarr")


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["segment_large.py", *map(str, arguments)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_command(rng, tmp_path, monkeypatch, capsys):
    import rasterio

    model = randomize(small_model(), rng)
    model.save(tmp_path / "model.keras")
    image = tiling.image_of(rng, 60, 80)
    image[:10] = 0
    transform = rasterio.transform.from_origin(0, 0, 1, 1)
    geotiff(tmp_path / "scene.tif", image, transform=transform, crs="EPSG:3857", nodata=0)
    output = tmp_path / "out/classes.tif"
    arguments = ["--model", tmp_path / "model.keras", "--input", tmp_path / "scene.tif"]
    arguments += ["--output", output, "--tile", 32]
    run(monkeypatch, *arguments)
    assert "60 x 80 pixels in tiles of 32 and 9 around each" in capsys.readouterr().out
    with rasterio.open(output) as file:
        classes = file.read(1)
        assert file.crs == "EPSG:3857" and len(file.colormap(1)) == 256
    want = segment(model, image, tile=60, nodata=0, verbose=False)
    np.testing.assert_array_equal(classes, want)
    assert (classes[:10] == 255).all() and (classes[10:] < 5).all()
    assert sorted(p.name for p in output.parent.iterdir()) == [
        "classes.tif",
        "classes_overview.png",
    ]


@pytest.mark.once
def test_flags_of_the_command(rng, tmp_path, monkeypatch):
    model = randomize(small_model(normalization=(127.5, 127.5)), rng)
    model.save(tmp_path / "model.keras")
    image = rng.integers(0, 256, (40, 50, 5)).astype("int16")
    image[:9] = -3
    geotiff(tmp_path / "scene.tif", image)
    arguments = ["--model", tmp_path / "model.keras", "--input", tmp_path / "scene.tif"]
    arguments += ["--bands", 5, 1, 2, "--tile", 16, "--halo", 4, "--nodata", -3]
    arguments += ["--keep-features", "--workers", 2, "--class-names", "a,b,c,d,e"]
    run(monkeypatch, *arguments, "--output", tmp_path / "out.npy")
    seen = image[:, :, [4, 0, 1]]
    want = segment(model, seen, tile=16, halo=4, nodata=-3, keep_features=True, verbose=False)
    assert (want[:9] == 255).all() and (want[9:] < 5).all()
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), want)
    assert not (tmp_path / "out.npy.work").exists()


@pytest.mark.once
def test_command_sees_what_predict_sees(rng, tmp_path, monkeypatch, capsys):
    model = randomize(small_model(), rng)
    model.save(tmp_path / "model.keras")
    image = rng.integers(0, 2**16, (40, 50, 3)).astype("uint16")
    image[:9], image[9] = 300, 301  # of one upper byte
    geotiff(tmp_path / "scene.tif", image, nodata=300)
    arguments = ["--model", tmp_path / "model.keras", "--tile", 16]

    def command(name, *further):
        run(monkeypatch, *arguments, "--input", tmp_path / name, *further)
        return np.load(tmp_path / "out.npy")

    output = ("--output", tmp_path / "out.npy")
    classes = command("scene.tif", *output)
    seen = np.where(np.arange(40)[:, None, None] < 9, np.nan, image >> 8).astype("float32")
    want = segment(model, seen, tile=16, nodata=np.nan, verbose=False)
    assert (want[:9] == 255).all() and (want[9:] < 5).all()
    np.testing.assert_array_equal(classes, want)
    np.save(tmp_path / "plain.npy", image)
    want = segment(model, (image >> 8).astype("uint8"), tile=16, verbose=False)
    np.testing.assert_array_equal(command("plain.npy", *output), want)
    assert len(np.unique(want)) > 1
    geotiff(tmp_path / "12.tif", image >> 4, NBITS=12)
    np.testing.assert_array_equal(command("12.tif", *output), want)

    def error(name):
        with pytest.raises(SystemExit):
            command(name, *output)
        return capsys.readouterr().err

    np.save(tmp_path / "float.npy", image.astype("float32"))
    assert "or the upper 8 of 16. Received: --input" in error("float.npy")
    geotiff(tmp_path / "4.tif", (image >> 12).astype("uint8"), NBITS=4)
    assert "of 16. Received: --input" in (found := error("4.tif")) and "of 4 bits" in found
    geotiff(tmp_path / "white.tif", (image[..., :1] >> 8).astype("uint8"), photometric="miniswhite")
    assert "images whose zero is black" in error("white.tif")
    picture = Image.fromarray((image >> 8).astype("uint8"))
    turned = Image.Exif()
    turned[0x0112] = 6
    for ending in ("jpg", "png", "tif"):
        picture.save(tmp_path / f"turned.{ending}", exif=turned)
        assert "must be stored as it is viewed" in error(f"turned.{ending}")
    picture.quantize(16).save(tmp_path / "palette.png")
    assert "indices of a palette. Resolve it: gdal_translate" in error("palette.png")
    with locked_folder(tmp_path / "out.npy.work"):
        assert "no other process writes to" in error("plain.npy")


@pytest.mark.parametrize("count", [1, 3])
def test_command_with_answers_to_each_class(count, rng, tmp_path, monkeypatch):
    import rasterio

    names = ["water", "road", "roof"][:count]
    model = small_model(num_classes=count, activation="sigmoid", class_names=names)
    model = randomize(model, rng)
    model.save(tmp_path / "model.keras")
    image = tiling.image_of(rng, 40, 50)
    image[:9] = 0
    geotiff(tmp_path / "scene.tif", image, nodata=0)
    arguments = ("--model", tmp_path / "model.keras", "--input", tmp_path / "scene.tif")
    want = segment(model, image, tile=64, nodata=0, verbose=False)
    assert (want[:9] == 255).all() and 0.05 < want[9:].mean() < 0.95
    run(monkeypatch, *arguments, "--output", tmp_path / "out.tif", "--tile", 32)
    with rasterio.open(tmp_path / "out.tif") as file:
        written = np.moveaxis(file.read(), 0, -1).reshape(want.shape)
        assert count == 1 or file.descriptions == tuple(names)
        # The colour of the class is that of its 1.
        assert count > 1 or file.colormap(1)[1][:3] == (86, 180, 233)
    np.testing.assert_array_equal(written, want)
    assert (tmp_path / "out_overview.png").stat().st_size > 1000
    run(monkeypatch, *arguments, "--output", tmp_path / "out.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), want)


def test_command_refuses_before_the_work(rng, tmp_path, monkeypatch, capsys):
    small_model(num_classes=3, activation="sigmoid").save(tmp_path / "model.keras")
    np.save(tmp_path / "scene.npy", tiling.image_of(rng, 40, 50))
    monkeypatch.setattr("keras_fsa.large.segment", None)
    arguments = ("--model", tmp_path / "model.keras", "--input", tmp_path / "scene.npy")

    def error(*further):
        with pytest.raises(SystemExit):
            run(monkeypatch, *arguments, *further)
        return capsys.readouterr().err

    assert "has one class at a pixel" in error("--output", tmp_path / "out.zarr")
    same = "`--output` must be another file than `--input`, which it would replace. Received: /"
    assert same in error("--output", tmp_path / "more" / ".." / "scene.npy")
    (tmp_path / "folder.npy").mkdir()
    assert "cannot take the place of a folder" in error("--output", tmp_path / "folder.npy")
    assert "Received: 2 names" in error("--output", tmp_path / "out.npy", "--class-names", "a,b")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert "needs the package 'rasterio'" in error("--output", tmp_path / "out.tif")
    # Of another kind than FsaNet, which has 255 classes at most.
    image = keras.Input((None, None, 3))
    keras.Model(image, keras.layers.Conv2D(300, 1)(image)).save(tmp_path / "model.keras")
    assert "classes of dtype uint16" in error("--output", tmp_path / "out.npy")


def test_command_without_matplotlib(rng, tmp_path, monkeypatch, capsys):
    """The last thing that is done must not make hours look lost."""
    randomize(small_model(), rng).save(tmp_path / "model.keras")
    np.save(tmp_path / "scene.npy", tiling.image_of(rng, 40, 50))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = ("--model", tmp_path / "model.keras", "--input", tmp_path / "scene.npy")
    run(monkeypatch, *arguments, "--output", tmp_path / "out.npy")
    assert "Drawing is off" in capsys.readouterr().out
    assert not (tmp_path / "out.npy.work").exists() and (tmp_path / "out.npy").exists()


@pytest.mark.parametrize("kind", ["alpha", "internal"])
def test_masks_of_a_raster(kind, rng, tmp_path):
    """Black pixels within the mask were seen, and whatever lies outside was not."""
    import rasterio

    image, seen = tiling.image_of(rng, 40, 50), np.ones((40, 50), bool)
    image[5:9, 5:9], seen[:, 30:] = 0, False
    path = tmp_path / "a.tif"
    if kind == "alpha":
        opaque = np.concatenate([image, 255 * seen[..., None].astype("uint8")], -1)
        geotiff(path, opaque, photometric="rgb", alpha="yes")
        assert open_image(path).shape == (40, 50, 4) and open_image(path).nodata is None
        opened = open_image(path, bands=(1, 2, 3))
    else:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            geotiff(path, image)
            with rasterio.open(path, "r+") as file:
                file.write_mask(seen)
        opened = open_image(path)
    assert (opened.shape, opened.dtype) == (image.shape, "float32") and np.isnan(opened.nodata)
    want = np.where(seen[..., None], image, np.nan)
    np.testing.assert_array_equal(opened[3:20, 10:45], want[3:20, 10:45])
    model = randomize(small_model(), rng)
    classes = segment(model, opened, tile=32, verbose=False)
    assert ((classes == 255) == ~seen).all()
    np.testing.assert_array_equal(segment(model, want, nodata=np.nan, verbose=False), classes)


def test_bands_of_a_raster(rng, tmp_path):
    image = rng.integers(0, 4000, (20, 30, 5)).astype("uint16")
    geotiff(tmp_path / "a.tif", image, photometric="minisblack", nodata=0)
    opened = open_image(tmp_path / "a.tif", bands=[4, 1])
    assert (opened.shape, opened.dtype, opened.nodata) == ((20, 30, 2), "uint16", 0)
    np.testing.assert_array_equal(opened[3:9, :], image[3:9][..., [3, 0]])
    for wrong in ([0], [6], []):
        with pytest.raises(ValueError, match=r"`bands` must be numbers of 1 to 5.*Correct"):
            open_image(tmp_path / "a.tif", wrong)
    np.save(tmp_path / "a.npy", image)
    with pytest.raises(ValueError, match=r"`bands` are chosen in raster files.*Leave it out"):
        open_image(tmp_path / "a.npy", [1])


def test_classes_that_no_file_holds(tmp_path):
    with pytest.raises(ValueError, match="`classes` must be uint8.*uint16.*wrap around"):
        save_classes(tmp_path / "a.npy", np.full((3, 3), 300, "uint16"))
    with pytest.raises(ValueError, match="one class at a pixel.*Name a .tif"):
        save_classes(tmp_path / "a.zarr", np.zeros((3, 3, 2), "uint8"))
