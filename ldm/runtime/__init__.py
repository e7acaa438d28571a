"""Floor 6: models in memory, devices and precision, batches, compiling: for commands, benchmarks and the Python API."""
