"""Floor 3: pictures in and out, and the batches a training step is made of."""
