"""Floor 7: a comparison of checkpoints as data, table, image sheet and web page."""
