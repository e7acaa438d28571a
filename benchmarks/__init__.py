"""Measures what the documents state."""
