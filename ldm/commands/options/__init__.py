"""The commands' flags, and which may change on resuming; nothing here imports torch, so that --help is quick."""
