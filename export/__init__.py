"""Turns trained nets into files to deploy, and proves that those decide as the nets do: `python -m distmnist.export`."""
