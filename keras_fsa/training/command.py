"""A recipe as a command, whose flags override its settings."""

import argparse
from dataclasses import fields, replace

import keras

from keras_fsa.training.loop import train
from keras_fsa.training.recipe import Recipe


def main(recipe: Recipe, description: str, arguments: list[str] | None = None) -> keras.Model:
    """Train by a recipe, with the settings that the command line gives in place of its own.

    Args:
        recipe: a `Recipe` that names a data set.
        description: the help text, a script's docstring.
        arguments: a list of flags instead of the command line's.

    Returns:
        The trained model.
    """
    recipe = parse(recipe, description, arguments)
    # TensorFlow Datasets takes seconds to import; `--help` and other data do without.
    from keras_fsa.datasets import describe, load
    from keras_fsa.datasets.augment import training_batches

    about = describe(recipe.dataset)
    splits = tuple(about.splits)
    training, validation = (
        load(
            recipe.dataset,
            split,
            recipe.data_dir,
            manual_dir=recipe.manual_dir,
            skip_unreadable=recipe.skip_unreadable,
        )
        for split in (splits[0], splits[-1])
    )

    def batches(step, part):
        return training_batches(
            training,
            recipe.crop,
            recipe.batch,
            recipe.seed,
            start_step=step,
            part=part,
            scales=recipe.scales,
            scale_step=recipe.scale_step,
            base_size=recipe.base_size,
            max_class_share=recipe.max_class_share,
            photometric=recipe.photometric,
        )

    names = about.class_names
    return train(recipe, len(names), batches, validation, class_names=names, palette=about.palette)


def parse(recipe: Recipe, description: str, arguments: list[str] | None = None) -> Recipe:
    """The recipe with the settings that the flags override: `data_dir` by `--data-dir`, and so on.

    A size takes one number, or two: height and width; a list any. `none` stands for None.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes, lists = [], []
    for item in fields(recipe):
        value, kind = getattr(recipe, item.name), item.type
        options = {"help": f"{item.metadata['help']} (default: {value})", "dest": item.name}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif kind in (tuple, list):
            (sizes if kind is tuple else lists).append(item.name)
            number = float if kind is list or item.name == "scales" else int
            options |= {"type": _or_none(number), "nargs": "+", "metavar": "NUMBER"}
        else:
            options |= {"type": _or_none(kind), "choices": item.metadata["choices"]}
        parser.add_argument(
            "--" + item.name.replace("_", "-"), default=argparse.SUPPRESS, **options
        )
    given = vars(parser.parse_args(arguments))
    for name in sizes:
        if name in given:
            value = given[name]
            if len(value) > 2:
                parser.error(f"--{name} takes one number or two, not {len(value)}")
            given[name] = None if None in value else (value[0], value[-1])
    for name in lists:
        if None in given.get(name, ()):
            given[name] = None
    try:
        return replace(recipe, **given)
    except ValueError as error:
        parser.error(str(error))


def _or_none(kind):
    def convert(text):
        return None if text.lower() == "none" else kind(text)

    convert.__name__ = kind.__name__  # argparse's error messages name it
    return convert
