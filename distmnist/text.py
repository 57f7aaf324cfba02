"""Names from outside, in messages of one line."""

from collections.abc import Sequence
from pathlib import Path


def shown(name: str | Path) -> str:
    """`name` for a message of one line: control characters and undecodable bytes are escaped, as in Python."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in str(name))


SOME = 3
"""Names that a message of one line tells."""


def some(names: Sequence[str]) -> str:
    """The first of them, as `shown`, and how many more there are."""
    more = f" and {len(names) - SOME:,} more" if len(names) > SOME else ""
    return ", ".join(map(shown, names[:SOME])) + more
