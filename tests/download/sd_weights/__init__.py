"""download/sd-weights.sh against a server that breaks off, lies, refuses and redirects."""
