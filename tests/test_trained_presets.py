"""Trained networks by name and by path, their files and their cards."""

import json
import re
import shutil
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from PIL import Image

import keras_fsa
from benchmarks import make_preset
from keras_fsa.commands import predict
from keras_fsa.commands.models import Trained, load_keras_model, model_file
from keras_fsa.datasets.signal_harbor import draw_scene, scene_rng
from keras_fsa.inference import class_map
from keras_fsa.models.presets import PACKAGED, trained_presets
from tests.helpers import array
from tests.tiny_training import backbone

ROOT = Path(__file__).parent.parent


def tiny(**arguments):
    keras.utils.set_random_seed(0)
    return keras_fsa.FsaNet(
        3,
        backbone(),
        frequencies=2,
        head_channels=8,
        **{"normalization": "imagenet", **arguments},
    )


@pytest.fixture
def saved(tmp_path):
    model = tiny()
    model.save(tmp_path / "model.keras")
    return model, tmp_path / "model.keras"


def test_signal_harbor():
    """Every engine opens the packaged file, whose golden logits are those before it was halved."""
    model = keras_fsa.FsaNet.from_preset("signal_harbor")
    assert {weight.dtype for weight in model.weights} == {"float32"}
    image, mask = draw_scene(scene_rng("test", 0))
    expected = np.load(ROOT / "tests/golden/signal_harbor.npz")["logits"]
    logits = model.predict(image[None], verbose=0)[0, ::16, ::16]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    assert (class_map(model, image) == mask).mean() > 0.95
    # Of a size that is no multiple of the stride.
    assert (class_map(model, image[:93, :125]) == mask[:93, :125]).mean() > 0.95


@pytest.mark.once
def test_commands_take_names_and_folders(tmp_path, saved, monkeypatch, capsys):
    image, _ = draw_scene(scene_rng("test", 0))
    Image.fromarray(image).save(tmp_path / "scene.png")
    predict.main([str(tmp_path / "scene.png"), "--model=signal_harbor", f"--output={tmp_path}"])
    assert "inbound" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    assert model_file(Path("signal_harbor")) == PACKAGED / "signal_harbor/model.keras"
    assert load_keras_model(tmp_path).num_classes == 3  # a folder with model.keras
    # What exists goes before a name.
    (tmp_path / "signal_harbor").mkdir()
    shutil.copy(saved[1], tmp_path / "signal_harbor")
    assert load_keras_model(Path("signal_harbor")).num_classes == 3
    message = r"`model` must be .*exists. Received: harbour, .* name .* this package: signal_harbor"
    with pytest.raises(ValueError, match=message):
        Trained().check("model", Path("harbour"))


@pytest.mark.parametrize("folder", sorted(ROOT.glob("presets/*")), ids=lambda path: path.name)
def test_presets_of_the_repository(folder):
    """Every engine's logits are those that were recorded when the file was made."""
    model = keras_fsa.FsaNet.from_preset(folder)
    expected = np.load(ROOT / f"tests/golden/{folder.name}.npz")["logits"]
    logits = make_preset.logits_of_noise(model)[::16, ::16]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_what_is_in_the_package():
    assert trained_presets() == ("signal_harbor",)
    assert Path(keras_fsa.__file__).parent / "presets" == PACKAGED
    assert (PACKAGED / "signal_harbor/model.keras").stat().st_size < 300_000
    result = json.loads((ROOT / "benchmarks/results/presets/signal_harbor.json").read_text())
    text = (PACKAGED / "signal_harbor/README.md").read_text()
    assert f"| **mean** | {result['scores']['mean_iou']:.3f} |" in text
    assert result["command"] in text and 'from_preset("signal_harbor")' in text


def test_paths(saved):
    model, path = saved
    for name in (path, str(path), path.parent, str(path.parent)):
        loaded = keras_fsa.FsaNet.from_preset(name)
        for new, old in zip(loaded.weights, model.weights, strict=True):
            np.testing.assert_array_equal(array(new), array(old))


def test_other_classes_and_another_precision(saved):
    model, path = saved
    other = keras_fsa.FsaNet.from_preset(path, num_classes=5, dtype="mixed_bfloat16")
    assert other.num_classes == 5 and other.head.output.shape[-1] == 5
    policies = {layer.dtype_policy.name for layer in other.head.layers if "conv" in layer.name}
    assert policies == {"mixed_bfloat16"}
    fresh = [
        new.path
        for new, old in zip(other.weights, model.weights, strict=True)
        if new.shape != old.shape or (array(new) != array(old)).any()
    ]
    assert {name.split("/")[-2] for name in fresh} == {"logits"} and len(fresh) == 4
    same = keras_fsa.FsaNet.from_preset(path, num_classes=3)
    for new, old in zip(same.weights, model.weights, strict=True):
        np.testing.assert_array_equal(array(new), array(old))


@pytest.mark.parametrize("name", ["nonsense", "", ".", None, 3, ("signal_harbor",), "signal_harbo"])
def test_unknown_names_list_what_there_is(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"(?s)Received: preset=.*in this package: 'signal_harbor'.*random weights: "
        r"'ccnet_dot_r2_cityscapes', .*A path is that of a \.keras file",
    ):
        keras_fsa.FsaNet.from_preset(name)


def test_settings_are_those_of_the_file(saved):
    with pytest.raises(
        ValueError, match=r"`num_classes`, `dtype` and `name`. Received: frequencies=3 for preset="
    ):
        keras_fsa.FsaNet.from_preset(saved[1], frequencies=3, num_classes=2)
    with pytest.raises(ValueError, match=r"`dtype` must be .*Received: dtype='nonsense'"):
        keras_fsa.FsaNet.from_preset(saved[1], dtype="nonsense")


def test_two_networks_in_one_model(rng):
    """Whose names must differ, as Keras wants it."""
    images = rng.uniform(0, 255, (1, 32, 48, 3)).astype("float32")
    student = keras_fsa.FsaNet.from_preset("signal_harbor")
    teacher = keras_fsa.FsaNet.from_preset("signal_harbor", name="teacher")
    pictures = keras.Input((None, None, 3))
    both = keras.Model(pictures, keras.layers.Subtract()([student(pictures), teacher(pictures)]))
    np.testing.assert_array_equal(array(both(images)), 0)
    assert (student.name, teacher.name) == ("fsanet", "teacher")


def test_the_earlier_name_of_the_argument():
    with pytest.warns(DeprecationWarning, match="`name` of `FsaNet.from_preset` .* Use `preset`"):
        assert keras_fsa.FsaNet.from_preset(name="signal_harbor").num_classes == 10


def test_damaged_and_foreign_files(saved, tmp_path):
    model, path = saved
    data = path.read_bytes()
    for name, content in {"cut": data[: len(data) // 2], "text": b"weights"}.items():
        other = tmp_path / f"{name}.keras"
        other.write_bytes(content)
        with pytest.raises(ValueError, match=rf"`preset` does not load. Received: .*{name}\.keras"):
            keras_fsa.FsaNet.from_preset(other)
    model.head.get_layer("logits").bias.assign([0, np.nan, 0])
    model.save(path)
    with pytest.raises(ValueError, match=r"must be finite .*'.*bias' has NaN"):
        keras_fsa.FsaNet.from_preset(path)
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    with pytest.raises(ValueError, match=r"must lead to an FsaNet. Received: .* with a Sequential"):
        keras_fsa.FsaNet.from_preset(path)


def test_code_in_a_file_is_not_run(tmp_path):
    images = keras.Input((None, None, 3))
    model = keras.Model(images, keras.layers.Lambda(lambda x: x, output_shape=(4,))(images))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=r"`preset` does not load. .*[Ll]ambda"):
        keras_fsa.FsaNet.from_preset(tmp_path)


def test_halved_files(tmp_path):
    """Kernels in float16, all else as it was; a compiled model's optimizer is left out."""
    model = tiny()
    model.compile("adam")
    model.fit(np.zeros((1, 32, 32, 3)), np.zeros((1, 32, 32)), verbose=0)
    model.save(tmp_path / "best.keras")
    make_preset.make_preset(tmp_path / "best.keras", result_file(tmp_path), tmp_path / "preset")
    with zipfile.ZipFile(tmp_path / "preset/model.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
        assert "optimizer" not in archive.read("config.json").decode().split("compile_config")[-1]
    found = {}

    def look(name, item):
        if isinstance(item, h5py.Dataset):
            found.setdefault(item.dtype.name, []).append(item.ndim)

    with h5py.File(tmp_path / "model.weights.h5") as file:
        file.visititems(look)
    assert set(found) <= {"float16", "float32", "uint32", "int64"}
    assert min(found["float16"]) == 2 and max(found["float32"]) == 1
    halved = keras_fsa.FsaNet.from_preset(tmp_path / "preset")
    for new, old in zip(halved.weights, model.weights, strict=True):
        bound = 2**-11 if len(old.shape) > 1 else 0  # float16 has 11 bits
        np.testing.assert_allclose(array(new), array(old), rtol=bound, atol=1e-7 * bool(bound))


def result_file(folder):
    scores = {"iou": 0.5, "boundary_f": 0.25}
    result = {
        "name": "tiny",
        "dataset": "camvid",
        "split": "val",
        "date": "2026-01-02",
        "command": "python -m made",
        "versions": {"keras": "3"},
        "seed": 7,
        "settings": {"steps": 9},
        "finished": False,
        "step": 4,
        "steps": 9,
        "parameters": 1234,
        "scores": {
            "mean_iou": 0.5,
            "mean_boundary_f": 0.25,
            "images": 2,
            "classes": {"sky": scores},
        },
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder / "result.json"


def test_card(tmp_path):
    text = make_preset.card(json.loads(result_file(tmp_path).read_text()), 2_000_000, 1e-4)
    for line in (
        "# CamVid: tiny",
        "1,234 parameters, 2.00 MB",
        "| sky | 0.500 | 0.250 |",
        "Seed 7, 2026-01-02, keras 3. The training was not at its end: step 4 of 9.",
        "- steps: 9",
        "    python -m made",
    ):
        assert line in text
    assert "CC BY-NC 4.0" in text and "## Limits" in text


@pytest.mark.once
def test_cards_say_that_queries_and_keys_began_equal(tmp_path):
    """Of the networks that were trained before the kernels of an attention were drawn apart."""
    result = json.loads(result_file(tmp_path).read_text())
    for date, began_equal in (("2026-11-30T09:03:19", True), ("2026-11-30T20:58:04", False)):
        text = make_preset.card({**result, "date": date}, 2_000_000, 1e-4)
        assert text.endswith(f"{make_preset.BEGAN_EQUAL}\n") == began_equal
    cards = [PACKAGED / "signal_harbor/README.md", *(ROOT / "presets").glob("*/README.md")]
    assert len(cards) > 1
    for card in cards:
        text = card.read_text()
        (date,) = re.findall(r"Seed \d+, (\S+),", text)
        assert (make_preset.BEGAN_EQUAL in text) == (date < make_preset.DRAWN_APART)


def test_a_network_that_half_precision_would_change_is_refused(tmp_path):
    model = tiny()
    kernel = model.head.get_layer("logits").kernel
    kernel.assign(1e6 * np.ones(kernel.shape))  # beyond float16
    model.save(tmp_path / "best.keras")
    with pytest.raises(ValueError, match=r"must .* Received: "):
        make_preset.make_preset(tmp_path / "best.keras", result_file(tmp_path), tmp_path / "preset")
    assert not (tmp_path / "preset/model.keras").exists()
