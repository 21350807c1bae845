"""What the library promises of its speed, checked on what was measured.

Each bar is computed only where a run holds what it needs. The bars against regular attention are
set at 97 x 97 x 512, one image, float32, 8 frequencies: the paper's case.
"""

from benchmarks.methods import memory_of_regular

PAPER = {"channels": 512, "batch": 1, "frequencies": 8, "dtype": "float32"}
# Savings that the paper reports against regular self-attention.
PAPER_SAVINGS = {"time": (0.9756, 0.9818), "memory": (0.8729, 0.9004), "flops": (0.9613, 0.9807)}


def _ratio(rows, method, other, key):
    values = [rows.get(name, {}).get(key) for name in (method, other)]
    return None if None in values or not values[1] else values[0] / values[1]


def check(result: dict) -> list[dict]:
    """The bars that a run can tell: dicts of `bar`, `mode`, `required`, `measured`, `holds`."""
    lines = []

    def at_most(bar, limit, measured, mode):
        if measured is not None:
            line = {"bar": bar, "mode": mode, "required": f"at most {limit:.4g}"}
            lines.append({**line, "measured": measured, "holds": measured <= limit})

    def at_least(bar, limit, measured, mode):
        if measured is not None:
            line = {"bar": bar, "mode": mode, "required": f"at least {limit:.4g}"}
            lines.append({**line, "measured": measured, "holds": measured >= limit})

    def inverse(ratio):
        return None if ratio is None else 1 / ratio

    def saving(ratio):
        return None if ratio is None else 1 - ratio

    setting = result["setting"]
    tables: dict[tuple, dict] = {}
    for row in result["rows"]:
        key = (row["mode"], row["height"], row["width"], row["training"])
        tables.setdefault(key, {})[row["method"]] = row
    is_paper = all(setting[name] == value for name, value in PAPER.items())

    for (mode, height, width, training), rows in tables.items():
        if not (is_paper and (height, width) == (97, 97)):
            continue
        if training:
            for method in ("dot_product", "linear_softmax"):
                time = saving(_ratio(rows, method, "regular", "time"))
                bar = f"{method}: training step's time below regular attention"
                at_least(bar, 0.985, time, mode)
            continue
        # What a backend takes beyond one table of pairs to compute a softmax is its own affair.
        once = {"memory": memory_of_regular((1, height, width, setting["channels"]))}
        limits_of: dict[str, dict] = {
            "dot_product": {"flops": 0.997, "time": 0.988, "memory": 0.92},
            "linear_softmax": {"flops": 0.997, "time": 0.985, "memory": 0.901},
        }
        for method, limits in limits_of.items():
            for quantity, limit in limits.items():
                measured = saving(_ratio(rows, method, "regular", quantity))
                at_least(f"{method}: {quantity} below regular attention", limit, measured, mode)
            measured = saving(_ratio({**rows, "once": once}, method, "once", "memory"))
            bar = f"{method}: memory below regular attention that holds its pairs once"
            at_least(bar, limits["memory"], measured, mode)
        for other, limit in {"dense": 1.4, "ema": 4, "criss_cross": 8, "efficient": 8}.items():
            measured = inverse(_ratio(rows, "dot_product", other, "time"))
            at_least(f"dot_product: times faster than {other}", limit, measured, mode)
        measured = _ratio(rows, "dot_product", "copy", "time")
        at_most("dot_product: time in copies of the map", 12, measured, mode)
        measured = _ratio(rows, "dot_product_r4", "dot_product", "time")
        at_most("dot_product: time of R = 4 over R = 1", 1.3, measured, mode)

    for (mode, height, width, training), rows in tables.items():
        size = f"{height}x{width}"
        if mode == "unknown sizes":
            step = ", training" if training else ""
            known = tables.get(("jit", height, width, training), {})
            for method, row in rows.items():
                measured = _ratio({**known, "unknown": row}, "unknown", method, "time")
                at_most(f"{method}: unknown over known sizes at {size}{step}", 1.2, measured, mode)
        small = tables.get((mode, 97, 97, training), {})
        if (height, width) == (385, 385) and not training:
            for method in ("dot_product", "linear_softmax"):
                copies = [_ratio(table, method, "copy", "time") for table in (rows, small)]
                if None not in copies:
                    bar = f"{method}: copies of the map at {size} over copies at 97x97"
                    at_most(bar, 1, copies[0] / copies[1], mode)
        if result["device"]["kind"] == "gpu" and not training:
            fused = {
                ours: rows[name]["time"]
                for name, ours in (
                    ("fused", "dot_product"),
                    ("fused_bfloat16", "dot_product_bfloat16"),
                )
                if rows.get(name, {}).get("time") and rows.get(ours, {}).get("time")
            }
            if fused and min(height, width) >= 33:
                ours = min(fused, key=fused.__getitem__)
                measured = fused[ours] / rows[ours]["time"]
                at_least(f"{ours}: times faster than fused attention at {size}", 1, measured, mode)
            large = {**PAPER, "batch": 4}
            compiled = mode in ("jit", "compiled")
            as_large = all(setting[name] == value for name, value in large.items())
            if (height, width) == (129, 257) and compiled and as_large:
                measured = _ratio(rows, "dot_product", "copy", "time")
                at_most(f"dot_product: time in copies at {size}, batch 4", 3, measured, mode)

    for mode, seen in result.get("retraces", {}).items():
        at_most("graphs built anew at sizes seen before", 0, seen, mode)
    model = result.get("model")
    if model:
        at_most(
            "FsaNet: inference time over that without attention", 1.02, model["time"], model["mode"]
        )
        at_most(
            "FsaNet: memory of a training step over that without attention",
            1.05,
            model["memory"],
            model["mode"],
        )
    return lines
