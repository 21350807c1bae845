"""What attention costs: `python -m keras_fsa.benchmark`."""
