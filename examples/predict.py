r"""What a trained model sees in any picture: an overlay, and how much there is of each class.

    python examples/predict.py --model outputs/quickstart/fsanet.keras picture.jpg folder/ ...
    python examples/predict.py --model outputs/quickstart/saved_model picture.jpg
    python examples/predict.py --model model.keras --dataset cityscapes --window 769 folder/

The model is a `.keras` file, or the folder of a SavedModel (`model.export`). Pictures are files, or
folders that are searched to any depth. For each one, the folder of --output gets

- `NAME_overlay.png`: the picture and the classes laid over it, with their shares;
- with --spectrum, `NAME_spectrum.png`: the spectrum of the map that the attention is given;
- with --attention-at X,Y, `NAME_attention.png`: what the pixel in column X and row Y attends to,
  beside softmax attention with the same weights.

and, for all together, `shares.csv`: the share of each class in per cent of the pixels.
"""

import argparse
import csv
from pathlib import Path

import keras
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

import keras_fsa  # noqa: F401  (a .keras file needs its layers)
from keras_fsa.attention_map import softmax_twin
from keras_fsa.files import whole_file
from keras_fsa.inference import probabilities
from keras_fsa.layers.self_attention import SelfAttention
from keras_fsa.visualize import attention_picture, overlay_picture, spectrum_picture


def load_model(path):
    """What `probabilities` takes: a Keras model, or the serving function of a SavedModel."""
    if not path.exists():
        raise SystemExit(f"--model must exist. Received: {path}. Train one: examples/quickstart.py")
    if path.is_file() and path.suffix == ".keras":
        try:
            return keras.saving.load_model(path, compile=False)
        except Exception as error:
            raise SystemExit(f"--model does not load. Received: {path}: {error}") from error
    if not (path / "saved_model.pb").exists():
        raise SystemExit(
            "--model must be a .keras file, or a folder with a saved_model.pb in it. Received: "
            f"{path}. Write one with model.save('model.keras') or model.export('folder')."
        )
    import tensorflow as tf

    # `serve` is the endpoint that model.export writes; the function is gone without its model.
    loaded = tf.saved_model.load(str(path))
    if not hasattr(loaded, "serve"):
        raise SystemExit(
            f"--model must be a SavedModel with the endpoint `serve`. Received: {path}. Write it "
            "with model.export('folder')."
        )
    return lambda pictures: loaded.serve(tf.constant(pictures, "float32")).numpy()


def find_pictures(paths):
    """`[(file, name of its results)]` for files and folders; the name keeps the sub-folders."""
    Image.init()
    readable = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    found = {}
    for path in paths:
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in readable]
            named = [(file, file.relative_to(path).with_suffix("")) for file in files]
        elif path.is_file():
            named = [(path, Path(path.stem))]
        else:
            raise SystemExit(f"There is no picture or folder {path}. Check the spelling.")
        if not named:
            raise SystemExit(f"There is no picture in the folder {path}. Name another folder.")
        for file, name in named:
            if name in found:
                raise SystemExit(
                    f"Two pictures would have the same results, {name}: {found[name]} and {file}. "
                    "Rename one, or run twice with two --output folders."
                )
            found[name] = file
    return [(file, name) for name, file in found.items()]


def read_picture(path):
    """RGB uint8 `(H, W, 3)`, upright."""
    try:
        with Image.open(path) as file:
            return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise SystemExit(f"This picture cannot be read. Received: {path}: {error}") from error


def attention_and_input(model, picture):
    """The attention layer of a `FsaNet`, and the map `(h, w, C)` it is given for a picture."""
    head = getattr(model, "head", None)
    kinds = [layer for layer in getattr(head, "layers", ()) if isinstance(layer, SelfAttention)]
    if not kinds:
        raise SystemExit(
            "--spectrum and --attention-at need a FsaNet with FrequencySelfAttention or "
            f"SpatialSelfAttention in its head. Received: {model!r}. Leave the flags out."
        )
    (layer,) = kinds
    normalized = model.normalize(keras.ops.convert_to_tensor(picture[None]))
    features = model.backbone(normalized, training=False)["stage5"]
    return layer, keras.Model(head.input, layer.input)(features, training=False)[0]


def position_of_pixel(pixel, picture, feature_map, name):
    """Row and column of the feature map under the pixel (column, row) of the picture."""
    x, y = pixel
    height, width = picture.shape[:2]
    if not (0 <= x < width and 0 <= y < height):
        raise SystemExit(
            f"--attention-at must be a pixel of the picture. Received: {x},{y} for {name}, which "
            f"is {width} pixels wide and {height} high. Count from 0, the column first."
        )
    return y * feature_map.shape[0] // height, x * feature_map.shape[1] // width


def draw_attention(model, picture, name, target, spectrum, pixel):
    layer, feature_map = attention_and_input(model, picture)
    if spectrum:
        own = getattr(layer, "frequencies", 8)
        k = min(own if isinstance(own, int) else 8, *feature_map.shape[:2])
        spectrum_picture(feature_map, k, f"{target}_spectrum.png")
    if pixel:
        row, column = position_of_pixel(pixel, picture, feature_map, name)
        layers = {layer.affinity.name.replace("_", " "): layer}
        if layer.affinity != "softmax" or layer.low_pass is not None:
            layers = {f"this model: {title}": layer for title in layers}
            layers["softmax, all frequencies"] = softmax_twin(layer)
        attention_picture(feature_map, layers, row, column, picture, f"{target}_attention.png")


def class_table(args):
    """Names and colours of the classes, None where nothing is said about them."""
    if args.dataset:
        from keras_fsa.datasets import describe

        try:
            known = describe(args.dataset)
        except ValueError as error:
            raise SystemExit(f"--dataset: {error}") from None
        return list(known.class_names), known.palette
    return args.class_names, None


def write_shares(path, names, rows):
    with whole_file(path) as unfinished:
        with open(unfinished, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["picture", *names])
            writer.writerows([picture, *(f"{share:.4f}" for share in row)] for picture, row in rows)


def main():
    args = parse_arguments()
    pictures = find_pictures(args.pictures)
    names, palette = class_table(args)
    model = load_model(args.model)
    inspects = args.spectrum or args.attention_at
    if inspects and not isinstance(model, keras.Model):
        raise SystemExit(
            "--spectrum and --attention-at look into the model, and a SavedModel cannot be looked "
            f"into. Received: --model {args.model}. Pass the .keras file of the same model."
        )

    bar = keras.utils.Progbar(len(pictures), unit_name="picture", verbose=len(pictures) > 1)
    rows = []
    for number, (file, name) in enumerate(pictures, start=1):
        picture = read_picture(file)
        result = probabilities(model, picture, window=args.window)
        num_classes = result.shape[-1]
        names = names or [f"class {i}" for i in range(num_classes)]
        if len(names) != num_classes:
            raise SystemExit(
                f"--class-names or --dataset must fit the model. Received: {len(names)} names for "
                f"a model of {num_classes} classes. Name every class once."
            )
        mask = result.argmax(axis=-1)
        target = args.output / name
        overlay_picture(picture, mask, names, palette, f"{target}_overlay.png")
        if inspects:
            draw_attention(model, picture, file, target, args.spectrum, args.attention_at)
        counts = np.bincount(mask.reshape(-1), minlength=num_classes)
        rows.append((file, 100 * counts / mask.size))
        bar.update(number)
    write_shares(args.output / "shares.csv", names, rows)

    mean = np.mean([row for _, row in rows], axis=0)
    print("Share of the pixels" + (f", mean of {len(rows)} pictures" if len(rows) > 1 else ""))
    for i in np.argsort(-mean, kind="stable"):
        print(f"{names[i]:>20}  {mean[i]:6.2f} %")
    print(f"Pictures and shares.csv are in {args.output}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("pictures", nargs="+", type=Path, help="files, or folders of pictures")
    add("--model", type=Path, required=True, help=".keras file, or folder of a SavedModel")
    add("--output", type=Path, default=Path("outputs/predict"), help="folder for the results")
    add("--dataset", help="data set whose class names and colours are used, such as cityscapes")
    add("--class-names", type=lambda text: text.split(","), help="such as sky,road,car")
    add("--window", type=int, help="side of a sliding window in pixels, for large pictures")
    add("--spectrum", action="store_true", help="draw the spectrum that the attention sees")
    add("--attention-at", type=pixel, metavar="X,Y", help="draw what this pixel attends to")
    args = parser.parse_args()
    if args.dataset and args.class_names:
        parser.error("--dataset and --class-names exclude each other: leave one out")
    return args


def pixel(text):
    try:
        x, y = (int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be two whole numbers, column and row of a pixel, not {text!r}: write 40,25"
        ) from None
    return x, y


if __name__ == "__main__":
    main()
