"""python -m distmnist.sweep: the hyperparameters, chosen on held-out training digits."""
