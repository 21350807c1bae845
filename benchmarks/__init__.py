"""What attention costs: `python -m benchmarks`."""
