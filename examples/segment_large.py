"""Segment a large image, tile by tile. The same as the command `keras_fsa segment`.

    python examples/segment_large.py --model M.keras --input scene.tif --output classes.tif
    python examples/segment_large.py --model M.keras --input ortho.tif --bands 1 2 3 --output c.tif

`--help` lists all flags; `keras_fsa/commands/segment.py` is the code.
"""

from keras_fsa.commands.segment import main

if __name__ == "__main__":
    main()
