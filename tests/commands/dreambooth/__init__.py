"""Tests of dreambooth.py."""
