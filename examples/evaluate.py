r"""Scores a model on a dataset, or writes what its server wants: the command `keras_fsa evaluate`.

    python examples/evaluate.py --model fsanet.keras --dataset cityscapes --data-dir data \
        --mode slide --window 769 --stride 513 --output outputs/cityscapes
    python examples/evaluate.py --model fsanet.keras --images images/val --masks masks/val \
        --class-names sky,road,car

`--help` lists all flags; `keras_fsa/commands/evaluate.py` is the code.
"""

from keras_fsa.commands.evaluate import main

if __name__ == "__main__":
    main()
