r"""Trains FsaNet on your own images and masks. The same as the command `keras_fsa train`.

    python examples/train_folder.py --images images/train --masks masks/train \
        --val-images images/val --val-masks masks/val --num-classes 11 --ignore-label 11 \
        --size 240 320 --output outputs/street

The same command resumes a training that was stopped. `--help` lists all flags and what comes out;
`keras_fsa/commands/train.py` is the code.
"""

from keras_fsa.commands.train import main

if __name__ == "__main__":
    main()
