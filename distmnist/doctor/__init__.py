"""python -m distmnist.doctor: checks a machine or a cluster before anything is trained on it."""
