"""One training run, its directory, and many of them."""
