"""What a trained model sees in any image. The same as the command `keras_fsa predict`.

    python examples/predict.py --model outputs/quickstart/fsanet.keras image.jpg folder/ ...
    python examples/predict.py --model model.keras --dataset cityscapes --window 769 folder/
    python examples/predict.py --model model.keras image.jpg --attention-at 40,25

`--help` lists all flags; `keras_fsa/commands/predict.py` is the code.
"""

from keras_fsa.commands.predict import main

if __name__ == "__main__":
    main()
