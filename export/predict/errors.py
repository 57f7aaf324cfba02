"""What is wrong with a model, an image or an option, and names as a line can show them."""


class PredictError(ValueError):
    """A model, an image or an option that cannot be used: the message is one line. Exit code 2."""


def shown(text: str) -> str:
    """`text` for a part of a line: control characters, line ends and undecodable bytes are escaped, as in Python.

    Names of files and of classes are anyone's: a tab or a line end in one would forge another answer.
    """
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
