"""Tests of `ldm.data`."""
