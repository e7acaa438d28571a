"""The commands' flags, one file a command; nothing here imports torch, so that --help is quick."""
