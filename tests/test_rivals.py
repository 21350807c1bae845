"""The rivals that pool, filter, focus or convolve, against float64 NumPy, written from the papers.

The other ones are in test_benchmark.py, with counts, half precision and training steps of all.
"""

import json

import numpy as np
import pytest

from benchmarks import growth, methods, rivals, rivals_table, use
from keras_fsa.layers import SpatialSelfAttention
from tests.helpers import BACKEND, array, call, randomize

B, H, W, C, K = 2, 13, 17, 16, 2
N = H * W
# Float32 sums of some hundred terms of order one.
TOLERANCE = {"rtol": 5e-5, "atol": 5e-5}


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def f64(weight):
    return array(weight).astype("float64")


def relu(x):
    return np.maximum(x, 0)


def averages(x, n):
    """Adaptive averages, `(B, n, n, C)`, part by part."""
    out = np.empty((len(x), n, n, x.shape[-1]))
    (_, height, width, _) = x.shape
    for i, j in np.ndindex(n, n):
        rows = slice(i * height // n, int(np.ceil((i + 1) * height / n)))
        columns = slice(j * width // n, int(np.ceil((j + 1) * width / n)))
        out[:, i, j] = x[:, rows, columns].mean((1, 2))
    return out


def pyramid(x, counts):
    return np.concatenate([averages(x, n).reshape(len(x), n * n, -1) for n in counts], axis=1)


def enlarge(x, height, width):
    """Bilinear, position by position, without aligned corners."""
    out = np.empty((len(x), height, width, x.shape[-1]))
    for i, j in np.ndindex(height, width):
        corner = []
        for position, new, old in ((i, height, x.shape[1]), (j, width, x.shape[2])):
            at = np.clip((position + 0.5) * old / new - 0.5, 0, old - 1)
            low = int(at)
            corner.append((low, min(low + 1, old - 1), at - low))
        (a, b, s), (c, d, t) = corner
        top = (1 - t) * x[:, a, c] + t * x[:, a, d]
        bottom = (1 - t) * x[:, b, c] + t * x[:, b, d]
        out[:, i, j] = (1 - s) * top + s * bottom
    return out


def convolution(x, kernel, rate=1, bias=0.0):
    """Odd windows, zeros around, tap by tap. Depthwise where the kernel has one output each."""
    depthwise = kernel.shape[-1] == 1
    reach = rate * (len(kernel) // 2)
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    out = 0.0
    for i, j in np.ndindex(*kernel.shape[:2]):
        part = padded[:, i * rate : i * rate + x.shape[1], j * rate : j * rate + x.shape[2]]
        out = out + (part * kernel[i, j, :, 0] if depthwise else part @ kernel[i, j])
    return out + bias


def attention(query, key, value):
    query, key, value = (z.reshape(B, -1, z.shape[-1]) for z in (query, key, value))
    return softmax(query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])) @ value


def kernels(layer):
    return f64(layer.query), f64(layer.key), f64(layer.value)


def apnb(x, layer):
    query, key, value = kernels(layer)
    keys, values = pyramid(x @ key, (1, 3, 6, 8)), pyramid(x @ value, (1, 3, 6, 8))
    return attention(x @ query, keys, values)


def spatial_reduction(x, layer):
    query, key, value = kernels(layer)
    reduced = np.empty((B, H // 4, W // 4, C))
    for i, j in np.ndindex(H // 4, W // 4):
        block = x[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
        reduced[:, i, j] = np.einsum("bijc,ijcd->bd", block, f64(layer.reduction.kernel))
    reduced += f64(layer.reduction.bias)
    mean, variance = reduced.mean(-1, keepdims=True), reduced.var(-1, keepdims=True)
    norm = layer.norm_of_tokens
    tokens = (reduced - mean) / np.sqrt(variance + 1e-5) * f64(norm.gamma) + f64(norm.beta)
    return attention(x @ query, tokens @ key, tokens @ value)


def low_resolution(x, layer):
    query, key, value = kernels(layer)
    tokens = pyramid(x, (11, 8, 6, 4))
    y = attention(averages(x, 16) @ query, tokens @ key, tokens @ value)
    return enlarge(y.reshape(B, 16, 16, C), H, W)


def agent(x, layer):
    query, key, value = kernels(layer)
    q, v = x @ query, x @ value
    agents = averages(q, 7)
    y = attention(q, agents, attention(agents, x @ key, v)).reshape(x.shape)
    return y + convolution(v, f64(layer.local.kernel), bias=f64(layer.local.bias))


def focused(x, layer):
    def f(z):
        z = relu(z)
        return np.linalg.norm(z, axis=-1, keepdims=True) * (
            z**3 / np.maximum(np.linalg.norm(z**3, axis=-1, keepdims=True), 1e-300)
        )

    query, key, value = kernels(layer)
    q, k, v = f(x @ query).reshape(B, N, K), f(x @ key).reshape(B, N, K), x @ value
    table = q @ k.transpose(0, 2, 1)
    # A query without positive components attends to nothing: the guard decides.
    sums = table.sum(-1, keepdims=True)
    seen = sums[..., 0] > 1e-4
    y = (table / np.maximum(sums, 1e-4)) @ v.reshape(B, N, C)
    y = y.reshape(x.shape) + convolution(v, f64(layer.local.kernel), bias=f64(layer.local.bias))
    return np.where(seen.reshape(B, H, W, 1), y, np.nan)


def external(x, layer):
    q = x.reshape(B, N, C) @ f64(layer.convolution_1) + f64(layer.bias_1)
    share = softmax(q @ f64(layer.memory_key), axis=1)
    share /= share.sum(-1, keepdims=True)
    return share @ f64(layer.memory_value) @ f64(layer.convolution_2)


def global_filter(x, layer):
    """By the convolution theorem: a circular sum over all shifts."""
    spectrum = f64(layer.real) + 1j * f64(layer.imaginary)
    kernel = np.fft.irfft2(spectrum, s=(H, W), axes=(0, 1))
    return sum(
        kernel[i, j] * np.roll(x, (i, j), axis=(1, 2)) for i, j in np.ndindex(kernel.shape[:2])
    )


def branch(x, layer, rate=1):
    y = convolution(x, f64(layer.convolution.kernel), rate)
    norm = layer.norm
    scale = f64(norm.gamma) / np.sqrt(f64(norm.moving_variance) + 1e-5)
    return relu((y - f64(norm.moving_mean)) * scale + f64(norm.beta))


def aspp(x, layer):
    rates = (1, 6, 12, 18)
    maps = [branch(x, part, rate) for part, rate in zip(layer.branches, rates, strict=True)]
    mean = branch(x.mean((1, 2), keepdims=True), layer.image_branch)
    maps.append(np.broadcast_to(mean, maps[0].shape))
    projection = np.concatenate([f64(layer.projection), f64(layer.image_projection)])
    return np.concatenate(maps, axis=-1) @ projection


def pyramid_pooling(x, layer):
    parts = zip(layer.branches, (1, 2, 3, 6), strict=True)
    return np.concatenate([enlarge(branch(averages(x, n), part), H, W) for part, n in parts], -1)


WITNESSES = {
    f.__name__: f
    for f in (
        agent,
        apnb,
        aspp,
        external,
        focused,
        global_filter,
        low_resolution,
        pyramid_pooling,
        spatial_reduction,
    )
}


@pytest.mark.parametrize("name", WITNESSES)
def test_against_numpy(name, rng):
    layer = randomize(methods.make_layer(name, (B, H, W, C)), rng)
    x = rng.standard_normal((B, H, W, C)).astype("float32")
    wide = x.astype("float64")
    expected = wide + f64(layer.gain) * WITNESSES[name](wide, layer).reshape(x.shape)
    told = ~np.isnan(expected)
    assert told.mean() > 0.5
    np.testing.assert_allclose(array(call(layer, x))[told], expected[told], **TOLERANCE)


def test_relu_linear_at_positions_is_the_package_layer():
    layer = methods.make_layer("relu_linear_positions", (B, H, W, C))
    assert isinstance(layer, SpatialSelfAttention) and layer.affinity.name == "relu_linear"
    assert methods.flops(layer, H, W) == 2 * N * C * (2 * K + C) + 4 * N * K * C


@pytest.mark.parametrize("name", use.NAMES)
def test_the_residual_starts_at_zero(name):
    layer = use.make_attention(name, (H, W))
    if name == "none":
        assert layer is None
        return
    layer.build((None, H, W, C))
    assert not array(layer.norm.gamma).any() and not array(layer.norm.beta).any()
    plain = methods.METHODS[name](5, residual="gain", dtype="float32")
    plain.build((None, H, W, C))
    assert array(plain.gain) == 0


def test_a_residual_of_zero_is_the_identity(rng):
    x = rng.standard_normal((B, H, W, C)).astype("float32")
    layer = use.make_attention("apnb", (H, W))
    np.testing.assert_array_equal(array(call(layer, x)), x)
    # The scale is all that held the update back.
    layer.norm.gamma.assign(np.ones(C))
    assert abs(array(call(layer, x)) - x).max() > 1e-3


def test_a_filter_of_another_size_is_interpolated(rng):
    layer = rivals.GlobalFilter(size=(H, W))
    layer.build((None, None, None, C))
    layer.gain.assign(1.0)
    # A constant filter of 0.5 halves a map of any size.
    layer.real.assign(np.full(layer.real.shape, 0.5))
    layer.imaginary.assign(np.zeros(layer.real.shape))
    x = rng.standard_normal((B, 7, 11, C)).astype("float32")
    np.testing.assert_allclose(array(call(layer, x)), 1.5 * x, **TOLERANCE)


def test_operations_by_hand():
    shape = (1, H, W, C)
    filter_ = methods.make_layer("global_filter", shape)
    rows, columns = 2.5 * H * W * np.log2(W), 5 * H * 9 * np.log2(H)
    assert filter_.flops(H, W) == round(C * (2 * rows + 2 * columns + 6 * H * 9))
    aspp = methods.make_layer("aspp", shape)
    convolutions = 2 * N * C * (C // 2) * (1 + 9 + 9 + 9)
    assert aspp.flops(H, W) == convolutions + 2 * N * 4 * (C // 2) * C + 4 * C * (C // 2)


@pytest.mark.once
def test_a_run_of_use_is_kept_and_not_repeated(tmp_path, monkeypatch, capsys):
    from keras_fsa.datasets import signal_harbor

    monkeypatch.setattr(signal_harbor, "SPLITS", {"train": 16, "test": 8})
    file = tmp_path / "use.json"
    arguments = ["--json", str(file), "--epochs", "1", "--data-dir", str(tmp_path / "data")]
    use.main([*arguments, "--seeds", "0", "--methods", "apnb"])
    runs = json.loads(file.read_text())["runs"]
    assert [(run["method"], run["seed"]) for run in runs] == [("apnb", 0)]
    assert all(0 <= value <= 1 for run in runs for value in run["iou"].values())
    assert runs[0]["context"] == np.mean([runs[0]["iou"][name] for name in use.CONTEXT_CLASSES])
    assert runs[0]["parameters"] == 32 * (4 + 4 + 32) + 4 * 32

    def fail(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(use, "train", fail)
    use.main([*arguments, "--seeds", "0", "--methods", "apnb"])
    result = json.loads(file.read_text())
    assert result["runs"] == runs and result["backend"] == BACKEND
    result["versions"]["keras"] = "0"
    file.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"share engine and versions\. Received: a file of"):
        use.main(arguments)


def made_up_run(method, seed, context, mean):
    return {"method": method, "seed": seed, "context": context, "iou": {"mean": mean}}


USE = {
    "runs": [
        made_up_run("none", 0, 0.25, 0.7),
        made_up_run("dot_product", 0, 0.75, 0.8),
        made_up_run("dot_product", 1, 0.85, 0.9),
        made_up_run("apnb", 0, 0.5, 0.6),
    ]
}


def made_up_cost(backend, **least):
    rows = [
        {
            "method": name,
            "mode": "eager" if backend == "torch" else "jit",
            "training": False,
            "least": value,
            "memory": 3 * 2**20,
            "flops": 2e9,
        }
        for name, value in least.items()
    ]
    return {"backend": backend, "rows": rows}


def test_the_joined_table():
    costs = [made_up_cost("torch", dot_product=0.004, dense=0.02), made_up_cost("jax", apnb=0.005)]
    header, _, *lines = rivals_table.markdown(USE, costs).splitlines()
    assert header.startswith("|  | torch, ms | JAX, ms | torch, MiB | GFLOP | IoU, inbound")
    score = "0.800 (0.75 to 0.85) | 0.850 (0.80 to 0.90) | 2 |"
    assert lines == [
        f"| **frequency, dot product** | 4 |  | 3 | 2 | {score}",
        # The same layer: one training stands for both.
        f"| the authors' dense basis | 20 |  | 3 | 2 | {score}",
        "| APNB |  | 5 |  | 2 | 0.500 | 0.600 | 1 |",
        "| nothing in its place |  |  |  |  | 0.250 | 0.700 | 1 |",
    ]


def test_costs_alone():
    header, _, line = rivals_table.markdown({"runs": []}, [made_up_cost("jax", ema=1.5)]).split(
        "\n"
    )
    assert header == "|  | JAX, ms | JAX, MiB | GFLOP |" and line == "| EMA | 1500 | 3 | 2 |"


def test_the_plot_of_cost_and_use():
    (axes,) = rivals_table.plot(USE, made_up_cost("torch", dot_product=0.004, apnb=0.02)).axes
    points = {c.get_label(): c.lines[0].get_xydata().tolist() for c in axes.containers}
    assert points == {"1  frequency, dot product": [[4, 0.8]], "2  APNB": [[20, 0.5]]}
    (line,) = [line for line in axes.get_lines() if line.get_label() == "nothing"]
    assert set(line.get_ydata()) == {0.25} and axes.get_xscale() == "log"


def test_the_section_and_plot_of_a_folder(tmp_path, capsys):
    use = {**USE, "backend": "torch", "versions": {"torch": "2.0"}}
    for run, day in zip(use["runs"], (3, 4, 5, 6), strict=True):
        run["date"] = f"2026-01-0{day}T"
    cost = {
        **made_up_cost("jax", dot_product=0.004, apnb=0.01),
        "versions": {"jax": "0.9"},
        "date": "2026-01-02T",
        "device": {"name": "A CPU"},
        "threads": {"cpus": 1},
        "setting": {"clock": "CPU time"},
    }
    (tmp_path / "rivals-use.json").write_text(json.dumps(use))
    (tmp_path / "jax-cpu-rivals.json").write_text(json.dumps(cost))
    rivals_table.main(["--results", str(tmp_path), "--plot", str(tmp_path / "plot.png")])
    out = capsys.readouterr().out
    assert rivals_table.markdown(use, [cost]) in out
    assert "2026-01-02 to 2026-01-06, A CPU, 1 core; CPU time, least" in out
    assert "trained on torch; jax 0.9, torch 2.0." in out
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_labels_and_methods_agree():
    named = set(rivals_table.LABELS) - {"none"}
    assert named == {name for name in methods.METHODS if name[-2:] not in ("r2", "r4")}


def test_growth(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "CASE", {"batch": 1, "size": 11, "channels": 16})
    monkeypatch.setattr(growth, "GROWING", {"batch": (2,), "channels": (24,)})
    seen = []

    def least(runs, options):
        for run in runs.values():
            seen.append(tuple(run().shape))
        return {name: 2e-6 if name != "copy" else 1e-6 for name in runs}

    monkeypatch.setattr(growth, "_least", least)
    file = tmp_path / "growth.json"
    growth.main(["--networks", "0", "--json", str(file)])
    assert seen == [(2, 11, 11, 16)] * 3 + [(1, 11, 11, 24)] * 3
    result = json.loads(file.read_text())
    network = {"network": 0.5, "attention": 0.004}
    result["share"] = [{"backbone": "resnet18", "size": 257, "seconds": network}]
    lines = growth.markdown(result).splitlines()
    # 2 microseconds for 2 x 121 positions of 16 channels.
    assert lines[2] == "| **2** | 11x11 | 16 | 0.52 | 2.0 | 0.52 | 2.0 |"
    assert lines[3] == "| 1 | 11x11 | **24** | 0.69 | 2.0 | 0.69 | 2.0 |"
    assert lines[-1] == "| resnet18, 257x257 | 500 | 4.0 | 0.8 % |"
    (tmp_path / "x-cpu-growth.json").write_text(json.dumps(result))
    title, table = growth.section(tmp_path).split("\n\n", 1)
    assert title.startswith(f"{BACKEND} ") and table == growth.markdown(result)
