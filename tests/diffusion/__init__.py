"""Tests of `ldm.diffusion`."""
