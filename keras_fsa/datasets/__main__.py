"""Checks a dataset before an expensive training.

    python -m keras_fsa.datasets check ade20k --data-dir data --manual-dir archives
    python -m keras_fsa.datasets check --images images/train --masks masks/train --num-classes 11

It prints the number of examples, each class's share of the pixels, and every problem: a number of
examples other than the published one, files that cannot be read, ids that are no label, and masks
whose every pixel is ignored. The exit code is 1 if there is a problem.

Folders need no TensorFlow. The benchmarks are prepared by TensorFlow Datasets.
"""

import argparse
import sys
from collections.abc import Sequence

from keras_fsa.datasets.check import check
from keras_fsa.datasets.folder import folder_dataset
from keras_fsa.datasets.registry import NAMES, describe, load
from keras_fsa.images import MAX_PIXELS


def main(argv=None):
    """Run the command; its exit status."""
    args = _parse(argv)
    if args.name:
        description = describe(args.name)
        names: Sequence[str] = description.class_names
        splits = {
            split: description.splits.get(split) for split in args.split or description.splits
        }
    else:
        names, splits = [f"class {i}" for i in range(args.num_classes)], {args.images: None}
    found = 0
    for split, expected in splits.items():
        what = f"{args.name or 'folder'}, {split}:"
        try:
            dataset = _dataset(args, split)
        except (ValueError, OSError) as error:
            print(f"{what}\n  PROBLEM: {error}")
            found += 1
            continue
        pixels, problems = check(dataset, len(names), expected, args.fail_fast)
        found += len(problems)
        print(f"{what} {len(dataset)} examples")
        for name, share in zip((*names, "ignored"), pixels / max(pixels.sum(), 1), strict=True):
            print(f"  {name:>20}  {share:8.4%}")
        for problem in problems:
            print(f"  PROBLEM: {problem}")
        if found and args.fail_fast:
            break
    print(f"{found} problem(s)")
    return 1 if found else 0


def _dataset(args, split):
    if args.name:
        return load(
            args.name, split, args.data_dir, args.download, args.manual_dir, args.skip_unreadable
        )
    return folder_dataset(
        args.images,
        args.masks,
        args.num_classes,
        ignore_label=args.ignore_label,
        check=False,
        max_pixels=args.max_pixels,
    )


def _parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m keras_fsa.datasets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command = parser.add_subparsers(required=True, metavar="check").add_parser("check")
    add = command.add_argument
    add("name", nargs="?", choices=NAMES, help="the dataset; without it, --images and --masks")
    add("--data-dir", help="folder of TFDS for prepared data")
    add("--manual-dir", help="folder of the archives")
    add("--download", action="store_true", help="fetch what is missing")
    add("--split", action="append", help="only this split; can be given several times")
    add("--skip-unreadable", action="store_true", help="prepare without the files that are broken")
    add("--fail-fast", action="store_true", help="stop at the first problem")
    add("--images", help="folder of images")
    add("--masks", help="folder of their masks")
    add("--num-classes", type=int, help="the ids of these masks are 0 to this number - 1")
    add("--ignore-label", type=int, default=255, help="id in these masks of ignored pixels")
    add(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        help="most pixels of an image or mask (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    folder = bool(args.images and args.masks and args.num_classes)
    if bool(args.name) == folder:
        command.error("give a name, or all of --images, --masks and --num-classes")
    return args


if __name__ == "__main__":
    sys.exit(main())
