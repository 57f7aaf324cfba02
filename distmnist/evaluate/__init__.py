"""Evaluates trained or exported models on labelled images: `python -m distmnist.evaluate`."""
