"""What is wrong with a model, an image or an option, and what is remarked on an image of a digit."""

BLANK, SEVERAL = "blank: no ink found", "several blobs: the largest was read"
DOUBTFUL = "doubtful: the net is not sure of it when the image is moved by a pixel"


class PredictError(ValueError):
    """A model, an image or an option that cannot be used: the message is one line. Exit code 2."""
