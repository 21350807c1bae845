"""Writes a model for serving, and proves that it is the same: the command `keras_fsa export`.

    python examples/export.py --model fsanet.keras --format saved_model --output served
    python examples/export.py --model fsanet.keras --format litert --output fsanet.tflite --classes
    python examples/export.py --model fsanet.keras --output served --classes --window 769 --flip
    python examples/export.py --model m.keras --format onnx --output m.onnx --int8 --calibration dir

`--help` lists all flags and formats; `keras_fsa/commands/export.py` is the code.
"""

from keras_fsa.commands.export import main

if __name__ == "__main__":
    main()
