"""A recipe as a command, whose flags override its settings."""

from collections.abc import Callable

import keras

from keras_fsa.commands.command import command
from keras_fsa.commands.command import parse as parse_flags
from keras_fsa.training.checkpoint import check_writable
from keras_fsa.training.loop import train
from keras_fsa.training.recipe import Recipe


def main(recipe: Recipe, description: str, arguments: list[str] | None = None) -> keras.Model:
    """Train by a recipe; flags on the command line override its settings.

    The settings used are recorded in the output folder as `recipe.json`, which `--recipe FILE`
    reads.

    Args:
        recipe: a `Recipe` that names a dataset.
        description: the help text, a script's docstring.
        arguments: a list of flags instead of the command line's.

    Returns:
        The trained model.

    Raises:
        SystemExit: with code 2 and a line or two for a wrong flag or an error in the training.
    """
    return command(recipe, train_recipe, arguments, description=description)


def parse(recipe: Recipe, description: str, arguments: list[str] | None = None) -> Recipe:
    """The recipe with its settings overridden by flags: `data_dir` by `--data-dir`, and so on.

    A size takes two numbers, height and width; a list takes any number. `none` stands for None.

    Raises:
        ValueError: for an unknown flag, or a value that is not allowed.
    """
    return parse_flags(recipe, arguments or [], description=description)


def train_recipe(
    recipe: Recipe, build: Callable | None = None, choose: Callable | None = None
) -> keras.Model:
    """Train by a recipe on the dataset that it names.

    Args:
        recipe: a `Recipe`.
        build: of `keras_fsa.training.train`.
        choose: a function from the training examples to those that are used.
    """
    check_writable(recipe.output)
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

    if choose is not None:
        training = choose(training)
    if recipe.cache_gigabytes:
        training = training.in_memory(recipe.cache_gigabytes)

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
    return train(recipe, len(names), batches, validation, build, names, about.palette)
