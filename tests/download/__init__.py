"""Tests of the downloads, against a server on this machine that speaks the Hub's protocol."""
