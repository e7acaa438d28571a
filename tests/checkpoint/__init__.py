"""Tests of `ldm.checkpoint`."""
