"""Tests of the download scripts, for real, against a server on this machine."""
