"""Tests of `ldm.nn`."""
