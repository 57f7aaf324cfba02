"""Turns trained nets into files to deploy, and proves that they decide alike: `python -m distmnist.export`."""
