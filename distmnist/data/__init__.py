"""Data sets in memory, the images of an epoch and who gets which."""
