"""Tests of `benchmarks`: that they run, and what they compute."""
