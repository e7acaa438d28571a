"""Tests of ldm.report."""
