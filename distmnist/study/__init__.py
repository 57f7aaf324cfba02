"""python -m distmnist.study: both nets over several random seeds and recipes, and what differs significantly."""
