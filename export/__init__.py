"""Turns trained nets into files that can be deployed, and proves that those decide as the nets do. `python -m export`."""
