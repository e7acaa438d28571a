"""Floor 2: checkpoint files: read without executing anything in them, checked key by key, written whole."""
