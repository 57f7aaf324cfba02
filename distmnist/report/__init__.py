"""One page that says what came of a run, several, a study or a sweep: python -m distmnist.report."""
