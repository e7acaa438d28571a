"""Tests of `ldm.diffusion.samplers`."""
