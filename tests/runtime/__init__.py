"""Tests of ldm.runtime."""
