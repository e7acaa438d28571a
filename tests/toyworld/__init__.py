"""The little rendered world."""
