"""Floor 3: images in and out, and the batches a training step is made of."""
