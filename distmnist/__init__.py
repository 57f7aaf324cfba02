"""Train two MNIST classifiers on any number of processes, and prove that what you ship is what you trained."""

__version__ = "0.1.0"
