"""`python -m keras_fsa` is the console script `keras_fsa`."""

from keras_fsa.commands import main

if __name__ == "__main__":
    main()
