"""Floor 3: image files, captions, training batches, encoded images."""
