"""Tests of `ldm.evaluation`."""
