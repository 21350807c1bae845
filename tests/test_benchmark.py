"""The benchmark: its methods against NumPy, its counts, its report. No test of speed."""

import itertools
import json
import re

import keras
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import backbones, bars, measuring, methods, report, resident, rivals, runtimes
from tests.helpers import BACKEND, array, run_python

SHAPE = (2, 7, 11, 16)
FREQUENCIES = 3
# Float32 products of at most a few hundred terms of order one.
TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def regular(x, w):
    flat = x.reshape(2, 77, 16)
    query, key, value = (flat @ w[name] for name in ("query", "key", "value"))
    y = softmax(query @ key.transpose(0, 2, 1) / np.sqrt(2)) @ value
    return x + w["gain"] * y.reshape(x.shape)


def fused(x, w):
    # 16 channels make one head.
    query, key, value = np.split(x.reshape(2, 77, 16) @ w["query_key_value"], 3, axis=-1)
    y = softmax(query @ key.transpose(0, 2, 1) / np.sqrt(16)) @ value
    return x + w["gain"] * y.reshape(x.shape)


def dense(x, w):
    i, j = np.mgrid[:7, :11]
    basis = [
        np.cos(np.pi * u * (2 * i + 1) / 14) * np.cos(np.pi * v * (2 * j + 1) / 22)
        for u, v in itertools.product(range(3), range(3))
    ]
    p = np.stack([b.ravel() / np.linalg.norm(b) for b in basis], axis=1)
    tokens = p.T @ x.reshape(2, 77, 16)
    query, key, value = (tokens @ w[name] for name in ("query", "key", "value"))
    y = p @ (query @ key.transpose(0, 2, 1) / 77 @ value)
    return x + w["gain"] * y.reshape(x.shape)


def criss_cross(x, w):
    for _ in range(2):
        query, key, value = (x @ w[name] for name in ("query", "key", "value"))
        y = np.zeros_like(x)
        for b, i, j in np.ndindex(x.shape[:3]):
            cross = [(i, n) for n in range(11)] + [(m, j) for m in range(7) if m != i]
            a = softmax(np.array([query[b, i, j] @ key[b, m, n] for m, n in cross]))
            y[b, i, j] = sum(s * value[b, m, n] for s, (m, n) in zip(a, cross, strict=True))
        x = x + w["gain"] * y
    return x


def ema(x, w):
    out = np.empty_like(x)
    for b in range(len(x)):
        flat = x[b].reshape(77, 16) @ w["convolution_1"] + w["bias_1"]
        mu = w["start"]
        for _ in range(3):
            z = softmax(flat @ mu)
            mu = flat.T @ (z / (1e-6 + z.sum(0)))
            mu = mu / (1e-6 + np.linalg.norm(mu, axis=0))
        out[b] = (np.maximum(z @ mu.T, 0) @ w["convolution_2"]).reshape(x[b].shape)
    return x + w["gain"] * out


def efficient(x, w):
    flat = x.reshape(2, 77, 16)
    query, key = softmax(flat @ w["query"]), softmax(flat @ w["key"], axis=1)
    y = query @ (key.transpose(0, 2, 1) @ (flat @ w["value"]))
    return x + w["gain"] * y.reshape(x.shape)


def copy(x, w):
    return -x


RIVALS = [copy, regular, fused, dense, criss_cross, ema, efficient]


@pytest.mark.parametrize("reference", RIVALS, ids=lambda f: f.__name__)
def test_rivals_against_numpy(reference, rng):
    layer = methods.make_layer(reference.__name__, SHAPE, FREQUENCIES)
    weights = {weight.name: array(weight).astype("float64") for weight in layer.weights}
    if reference is ema:
        layer.bias_1.assign(rng.standard_normal(16))
        weights["bias_1"] = array(layer.bias_1).astype("float64")
    x = rng.standard_normal(SHAPE).astype("float32")
    np.testing.assert_allclose(
        array(layer(x)), reference(x.astype("float64"), weights), **TOLERANCE
    )


def test_fused_has_narrow_heads():
    layer = methods.make_layer("fused", (1, 3, 5, 130))
    assert (layer.heads, layer.channels) == (2, 130)
    layer = methods.make_layer("fused", (1, 3, 5, 512))
    assert layer.heads == 8


def test_an_unknown_method():
    message = r"`method` must be one of 'copy', .*Received: method='nonlocal'\. Choose one"
    with pytest.raises(ValueError, match=message):
        methods.make_layer("nonlocal", SHAPE)


# XLA also counts what runs over elements; a softmax is about five operations an element. With
# enough channels that stays below this share of the products.
XLA_EXCESS = 0.12


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_training_step_in_half_precision(name):
    layer = methods.make_layer(name, SHAPE, FREQUENCIES, methods.HALF)
    x = measuring.make_map(SHAPE, layer.dtype_policy.name)
    mode = "graph" if BACKEND == "tensorflow" else None
    y, (gradient, *weights) = measuring.Call(layer, x, training=True, mode=mode).run()
    assert "bfloat16" in str(y.dtype) and "bfloat16" in str(gradient.dtype)
    assert gradient.shape == x.shape and len(weights) == len(layer.trainable_weights)


def beyond_the_map(window, rate, height, width):
    """Pairs of a position and a tap of a convolution that lie outside the map: XLA leaves them out,
    torch and we do not."""
    reach = rate * (window // 2)
    offsets = range(-reach, reach + 1, rate)
    inside = [sum(max(0, size - abs(offset)) for offset in offsets) for size in (height, width)]
    return window**2 * height * width - inside[0] * inside[1]


# Windows, rates, and outputs of a tap for one channel of 256.
CONVOLUTIONS = {
    "focused": [(5, 1, 1)],
    "agent": [(3, 1, 1)],
    "aspp": [(3, 6, 128), (3, 12, 128), (3, 18, 128)],
}


# No library counts Fourier transforms as matrices: see test_rivals.py.
@pytest.mark.parametrize("name", [m for m in methods.METHODS if m not in ("copy", "global_filter")])
def test_counts_agree_with_the_backend(name):
    shape = (2, 12, 16, 256) if BACKEND == "jax" else SHAPE
    layer = methods.make_layer(name, shape, FREQUENCIES)
    mode = "graph" if BACKEND == "tensorflow" else None
    counted = measuring.Call(layer, measuring.make_map(shape, "float32"), mode=mode).counted_flops()
    flops = shape[0] * methods.flops(layer, *shape[1:3])
    if BACKEND == "torch":
        assert counted == flops
    elif BACKEND == "jax":
        for window, rate, outputs in CONVOLUTIONS.get(name, ()):
            flops -= 2 * 2 * 256 * outputs * beyond_the_map(window, rate, 12, 16)
        assert flops <= counted <= (1 + XLA_EXCESS) * flops
    else:
        assert counted is None


def test_memory_of_a_copy_is_one_map():
    x = measuring.make_map(SHAPE, "float32")
    call = measuring.Call(methods.make_layer("copy", SHAPE), x)
    if BACKEND == "torch":
        assert call.peak_memory() == 4 * np.prod(SHAPE)
    elif measuring.device()[0] == "cpu":
        assert call.peak_memory() is None


@pytest.mark.parametrize("name", ["dot_product", "linear_softmax"])
def test_the_update_becomes_the_output(name):
    # One map, in place under torch, joined by the compiler under JAX. TensorFlow cannot be asked.
    shape = (1, 41, 43, 128)
    layer = methods.make_layer(name, shape, FREQUENCIES)
    call = measuring.Call(layer, measuring.make_map(shape, "float32"))
    if BACKEND == "jax":
        plan = call._compiled.memory_analysis()
        peak = plan.temp_size_in_bytes + plan.output_size_in_bytes
    else:
        peak = call.peak_memory()
    assert peak is None or peak < 1.7 * 4 * np.prod(shape)


def test_memory_of_a_copy_in_a_child():
    mode = measuring.modes(True)[0]
    shape = (1, 97, 97, 512)
    peak = resident.peak_memory_in_child("copy", shape, 8, "float32", False, mode)
    # Each thread tells the kernel of its pages 64 at a time, so that up to a MiB is missing.
    map_size = 4 * np.prod(shape)
    assert map_size - 2**20 < peak < map_size + 2**20


def test_a_child_that_fails():
    with pytest.raises(RuntimeError, match="must end with an answer. Received: exit status 1"):
        resident.peak_memory_in_child("nonlocal", (1, 5, 6, 8), 2, "float32", False, "jit")


def test_memory_of_regular_attention_by_hand():
    assert methods.memory_of_regular((3, 5, 7, 16), 2) == 3 * 2 * 35 * (35 + 2 + 2 + 16 + 16)


class Machine:
    """A clock, and functions that take time on it; drift makes all slower from now on."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self):
        return self.now

    def function(self, name, seconds):
        def run():
            self.order.append(name)
            self.now += seconds

        return run


def test_round_robin():
    machine = Machine()
    runs = {"fast": machine.function("fast", 0.001), "slow": machine.function("slow", 1.0)}
    times = measuring.time_round_robin(runs, 8, 8.0, clock=machine)
    assert times == {
        "fast": (pytest.approx(0.001), pytest.approx(0.001), 8),
        "slow": (pytest.approx(1.0), pytest.approx(1.0), 4),
    }
    assert machine.order == ["fast"] * 2 + ["slow"] * 2 + ["fast", "fast", "slow"] * 4
    # However slow, three times.
    runs = {"slower": machine.function("slower", 100.0)}
    assert measuring.time_round_robin(runs, 8, 8.0, clock=machine)["slower"][-1] == 3

    def ever_faster():
        machine.now += 2 / (1 + len(machine.order))
        machine.order.append("ever faster")

    machine.order.clear()
    median, least, rounds = measuring.time_round_robin({1: ever_faster}, 4, 9.0, machine)[1]
    assert (median, least, rounds) == (pytest.approx((2 / 4 + 2 / 5) / 2), pytest.approx(2 / 6), 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole command at one tiny size, with every method."""
    folder = tmp_path_factory.mktemp("benchmark")
    file, picture = folder / "result.json", folder / "result.png"
    names = list(methods.ALL_METHODS)
    arguments = "--sizes 7x11 --channels 16 --frequencies 3 --rounds 3 --seconds 0.1".split()
    arguments += ["--methods", *names, "--json", str(file), "--plot", str(picture)]
    if BACKEND == "torch":
        arguments.append("--training")
    with pytest.MonkeyPatch.context() as patch:
        # A process for each method takes minutes; one has a test of its own.
        patch.setattr(resident, "peak_memory_in_child", lambda *call: 4 * 77 * 16)
        command.main(arguments)
    return json.loads(file.read_text()), picture.read_bytes(), names


def test_json_content(run):
    result, picture, names = run
    assert picture.startswith(b"\x89PNG")
    assert result["backend"] == BACKEND
    assert result["device"]["kind"] in ("cpu", "gpu") and result["device"]["name"]
    assert set(result["versions"]) == {"keras", "numpy", BACKEND}
    assert result["versions"]["keras"] == keras.__version__
    assert result["threads"]["cpus"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", result["date"])
    passes = {False, True} if BACKEND == "torch" else {False}
    rows = {(r["method"], r["mode"], r["training"]): r for r in result["rows"]}
    mode = "eager" if BACKEND == "torch" else "jit"
    assert {key[0] for key in rows if key[1] == mode} == set(names)
    assert {key[2] for key in rows} == passes
    for (name, _, training), row in rows.items():
        assert "note" not in row, row
        assert row["time"] >= row["least"] > 0 and row["rounds"] == 3 and row["positions"] == 77
        assert row["memory"] >= 0 and row["memory_by"]
        assert (row["flops"] is None) == training
        half = name.endswith("bfloat16")
        assert row["dtype"] == ("mixed_bfloat16" if half else "float32")
        if BACKEND == "torch":
            # The output, in its dtype, is in the memory; in training the gradients are, too.
            assert row["memory"] >= (1 + training) * 77 * 16 * (2 if half else 4)
    row, base = rows["dot_product", mode, False], rows["regular", mode, False]
    assert row["vs_regular"]["time"] == pytest.approx(row["time"] / base["time"])
    assert row["vs_regular"]["flops"] == pytest.approx(row["flops"] / base["flops"])
    if BACKEND == "tensorflow":
        assert ("dot_product", "unknown sizes", False) in rows
        assert result["retraces"] == {"unknown sizes": 0}
    if BACKEND == "jax":
        assert result["retraces"] == {"jit": 0}
    assert result["bars"] == bars.check(result)


def test_a_failing_method_leaves_a_note_and_the_others(monkeypatch, capsys):
    def fail(self, x):
        raise MemoryError("no room\nat all")

    monkeypatch.setattr(rivals.EfficientAttention, "attend", fail)
    arguments = "--sizes 5x6 --channels 8 --frequencies 2 --rounds 3 --seconds 0.1 --methods"
    monkeypatch.setattr(resident, "peak_memory_in_child", lambda *call: 1)
    result = command.main([*arguments.split(), "efficient", "regular"])
    failed, *others = result["rows"]
    assert failed["note"].startswith("failed: ") and failed["time"] is None
    assert all(row["time"] for row in others)
    assert "failed: " in capsys.readouterr().out


def test_memory_may_be_left_out(monkeypatch):
    def fail(*call):
        raise AssertionError("a process")

    monkeypatch.setattr(resident, "peak_memory_in_child", fail)
    arguments = "--sizes 5x6 --channels 8 --rounds 3 --seconds 0.1 --no-memory --cpu-time"
    result = command.main([*arguments.split(), "--methods", "copy"])
    row = result["rows"][0]
    assert (row["memory"] is None) == (row["memory_by"] is None) == (BACKEND != "torch")
    assert row["time"] > 0 and result["setting"]["clock"] == "CPU time"


def test_a_table_that_does_not_fit_is_left_out():
    note = command._too_large("regular", (1, 2000, 2000, 16), False, "cpu")
    assert re.fullmatch(r"left out: may need \d{5,} GiB", note)
    assert command._too_large("regular", SHAPE, True, "cpu") is None
    assert command._too_large("ema", (1, 2000, 2000, 16), False, "cpu") is None


def test_a_wrong_size(capsys):
    with pytest.raises(SystemExit):
        command.parse(["--sizes", "97"])
    assert "a size must be HEIGHTxWIDTH. Received: '97'." in capsys.readouterr().err


def made_up(method, time, memory=None, flops=None, size=(97, 97), **options):
    row = {"method": method, "mode": "jit", "training": False, "time": time, "rounds": 3}
    height, width = size
    row.update(height=height, width=width, positions=height * width, memory=memory, flops=flops)
    empty = {"time": None, "flops": None, "memory": None}
    return {**row, "vs_regular": empty, "vs_copy": empty, **options}


def made_up_result(rows, kind="cpu", **setting):
    return {"setting": {**bars.PAPER, **setting}, "rows": rows, "device": {"kind": kind}}


def checked(*arguments, **options):
    return {
        line["bar"]: (line["measured"], line["holds"])
        for line in bars.check(made_up_result(*arguments, **options))
    }


def test_bars():
    rows = [
        made_up("copy", 0.002),
        made_up("regular", 1.0, 800e6, 100e9),
        made_up("dense", 0.013),
        made_up("dot_product", 0.010, 80e6, 0.2e9),
        made_up("dot_product_r4", 0.014),
        made_up("dot_product", 0.02, training=True),
        made_up("regular", 1.0, training=True),
        made_up("dot_product", 0.011, mode="unknown sizes"),
    ]
    found = checked(rows)
    assert found["dot_product: flops below regular attention"] == (pytest.approx(0.998), True)
    assert found["dot_product: time below regular attention"] == (pytest.approx(0.99), True)
    assert found["dot_product: memory below regular attention"] == (pytest.approx(0.9), False)
    once = 1 - 80e6 / methods.memory_of_regular((1, 97, 97, 512))
    name = "dot_product: memory below regular attention that holds its pairs once"
    assert found[name] == (pytest.approx(once), False)
    assert found["dot_product: times faster than dense"] == (pytest.approx(1.3), False)
    assert found["dot_product: time in copies of the map"] == (pytest.approx(5), True)
    assert found["dot_product: time of R = 4 over R = 1"] == (pytest.approx(1.4), False)
    name = "dot_product: training step's time below regular attention"
    assert found[name] == (pytest.approx(0.98), False)
    assert found["dot_product: unknown over known sizes at 97x97"] == (pytest.approx(1.1), True)
    large = [made_up("copy", 0.03, size=(385, 385)), made_up("dot_product", 0.3, size=(385, 385))]
    name = "dot_product: copies of the map at 385x385 over copies at 97x97"
    assert checked(rows + large)[name] == (pytest.approx(2), False)
    assert not [bar for bar in found if "linear_softmax" in bar or "ema" in bar]
    # Another setting than the paper's tells only what is a ratio at any setting.
    assert list(checked(rows, channels=64)) == ["dot_product: unknown over known sizes at 97x97"]


def test_bars_on_a_gpu():
    size = (129, 257)
    rows = [
        made_up("copy", 0.002, size=size),
        made_up("dot_product", 0.005, size=size),
        made_up("fused", 0.1, size=size),
        made_up("fused_bfloat16", 0.008, size=size),
        made_up("dot_product_bfloat16", 0.004, size=size),
    ]
    assert checked(rows, kind="gpu", batch=4) == {
        "dot_product_bfloat16: times faster than fused attention at 129x257": (2, True),
        "dot_product: time in copies at 129x257, batch 4": (2.5, True),
    }


def test_markdown():
    row = made_up("ema", 0.0123, 3 * 2**20, 5e9, note="by hand")
    row["vs_regular"] = {"time": 0.5, "flops": None, "memory": 0.25}
    row["vs_copy"] = {"time": 8, "flops": None, "memory": 2}
    header, line, cells = report.markdown([row]).splitlines()
    assert header.count("|") == line.count("|") == cells.count("|")
    assert cells == "| 97x97 | ema | jit | 12.3 | 3 | 5 | 3 | 0.5 |  | 0.25 | 8 | 2 | by hand |"
    bar = {"bar": "b", "mode": "jit", "required": "at most 2", "measured": 1.5, "holds": True}
    assert report.markdown_bars([bar]).splitlines()[-1] == "| b | jit | at most 2 | 1.5 | True |"
    assert report.markdown_bars([]) == ""


def test_plot_values():
    rows = [
        made_up("regular", 4.0, 2**30, 8e9, size=(20, 30)),
        made_up("regular", 1.0, 2**20, 2e9, size=(10, 20)),
        made_up("copy", 0.5, 2**21, 0, size=(10, 20)),
        made_up("copy", None, size=(20, 30)),
    ]
    figure = report.plot(rows)
    time, memory, flops = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in time.get_lines()}
    assert lines == {"regular": [[200, 1000], [600, 4000]], "copy": [[200, 500]]}
    assert memory.get_lines()[0].get_ydata().tolist() == [1, 1024]
    assert flops.get_lines()[0].get_ydata().tolist() == [2, 8]
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    # The paper's bands, under the regular attention of this run.
    for axes, top, saving in ((time, 1000, (0.9756, 0.9818)), (memory, 1, (0.8729, 0.9004))):
        (band,) = axes.collections
        at_200 = [y for x, y in band.get_paths()[0].vertices if x == 200]
        low, high = ((1 - s) * top for s in reversed(saving))
        assert min(at_200) == pytest.approx(low) and max(at_200) == pytest.approx(high)


def test_comparison_with_an_earlier_run():
    before = {"date": "2026-01-02T00:00:00", "rows": [], "setting": bars.PAPER}
    now = {"date": "2026-02-03T00:00:00", "rows": [], "setting": bars.PAPER}
    for method, times in {"copy": (1.0, 1.05), "ema": (1.0, 1.5), "dense": (2.0, 1.0)}.items():
        for result, time in zip((before, now), times, strict=True):
            row = {"method": method, "mode": "jit", "training": False, "height": 7, "width": 11}
            result["rows"].append({**row, "dtype": "float32", "time": time, "memory": 8})
    now["rows"].append({**now["rows"][0], "method": "regular"})
    table = report.markdown_comparison(before, now).splitlines()
    assert table[0].split(" | ")[3] == "time / 2026-01-02"
    assert table[2:] == [
        "| 7x11 | copy | jit | 1.05 | 1 |  |",
        "| 7x11 | ema | jit | 1.5 | 1 | time |",
        "| 7x11 | dense | jit | 0.5 | 1 |  |",
    ]
    with pytest.raises(ValueError, match=r"rows in common.*Received: runs of 0 and 4 rows\."):
        report.markdown_comparison({**before, "rows": []}, now)
    for name, value in (("channels", 64), ("batch", 2), ("clock", "CPU time")):
        other = {**now, "setting": {**bars.PAPER, name: value}}
        with pytest.raises(ValueError, match=rf"same {name} .* before, {name}={value!r} now\."):
            report.markdown_comparison(before, other)


@pytest.mark.once
def test_what_was_measured_is_kept_where_it_does_not_compare(tmp_path):
    arguments = "--sizes 5x6 --channels 8 --rounds 3 --seconds 0.1 --no-memory --methods copy"
    files = [str(tmp_path / name) for name in ("before.json", "now.json")]
    command.main([*arguments.split(), "--json", files[0]])
    flags = ["--batch", "2", "--json", files[1], "--compare"]
    with pytest.raises(FileNotFoundError):  # before anything is measured
        command.main([*arguments.split(), *flags, str(tmp_path / "none.json")])
    with pytest.raises(ValueError, match="the same batch"):
        command.main([*arguments.split(), *flags, files[0]])
    assert len(json.loads((tmp_path / "now.json").read_text())["rows"]) >= 1


WITNESS = """
import keras, numpy as np
import keras_fsa
from benchmarks.witness import fsanet_calls, witness_calls
keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
model = keras_fsa.FsaNet(
    5, "resnet18", head_channels=16, frequencies=3, dropout=0, align_corners=False
)
model.attention_layer().gain.assign(0.7)
model.attention_layer().output_bias.assign(rng.normal(size=16))
images = rng.integers(0, 256, (2, 65, 97, 3)).astype("uint8")
masks = rng.integers(0, 5, (2, 65, 97)).astype("uint8")
theirs, ours = witness_calls(model, images, masks), fsanet_calls(model, images, masks)
for number in range(2):
    one, other = theirs["inference"](), ours["inference"]()
    print(abs(one - other).max() / abs(one).max())
    if number == 0:
        print(abs(float(theirs["training step"]()) - float(ours["training step"]())))
"""


def test_the_witness_is_the_same_network():
    """Before a training step and after it. It needs torch, and no other engine beside it."""
    lines = run_python(WITNESS, KERAS_BACKEND="torch").split()
    before, loss, after = map(float, lines[-3:])
    # Float32 through 20 convolutions. PyTorch's moving variances are unbiased, Keras' are not: with
    # 24 values at a channel that is a tenth of 4 % after a step.
    assert before < 1e-5 and loss < 1e-5 and after < 5e-3


def test_runtimes_table():
    """With masks and without, and a row that failed."""
    row = {"row": "here", "ms": 1.4, "cpu_ms": 2.6, "memory_mib": 3.4, "file_mib": 4.56}
    row |= {"deviation": 1.23e-6, "same_classes": 0.99999}
    plain = runtimes.markdown([row, {"row": "there", "error": "failed with code 1"}])
    assert "| here | 1 | 3 | 3 | 4.6 | 1.2e-06 | 100.00 % |" in plain
    assert "| there | failed with code 1 |  |  |  |  |  |" in plain
    scored = runtimes.markdown([{**row, "mean_iou": 0.68058}])
    assert "| 100.00 % | 0.6806 |" in scored
    # Masks of noise would cost the whole measurement.
    with pytest.raises(SystemExit):
        runtimes.main(["--masks", "masks"])


def test_backbones(tmp_path):
    """Each output stride that a network can have, and none that it cannot."""
    file = tmp_path / "backbones.json"
    names = ["resnet18", "keras.applications.VGG16"]
    backbones.main(["--size", "33", "--rounds", "1", "--json", str(file), "--networks", *names])
    result = json.loads(file.read_text())
    command = "python -m benchmarks.backbones --size 33 --rounds 1"
    assert result["command"] == f"KERAS_BACKEND={BACKEND} {command}"
    rows = result["rows"]
    assert [[*row["seconds"]] for row in rows] == [["8", "16", "32"], ["32"]]
    # ResNet18 has 11.18 million weights before its classifier, VGG16 14.71.
    assert backbones.markdown(rows).count("| 11.2 |") == 1
    assert re.search(r"VGG16` \| 14.7 \|  \|  \| \d+ \|", backbones.markdown(rows))
