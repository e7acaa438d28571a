"""Tests of ldm.toyworld.judge."""
