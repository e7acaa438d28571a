"""Models in memory, devices and precision, batches, compiling: what commands, benchmarks and the Python API share."""
