"""Shared by all layers of tests."""
