"""Tests of train.py."""
