"""Tests of the package `ldm`; their folders mirror its own."""
