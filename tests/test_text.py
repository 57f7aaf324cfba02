"""Names from outside, in messages: one line that every terminal and file can hold."""

from pathlib import Path

import pytest

from distmnist.text import SOME, shown, some


@pytest.mark.parametrize("name", ["cat", "Kätzchen 3.png", "猫/🐈.png", r"a\b", "'\"", ""])
def test_ordinary_names_stay_as_they_are(name):
    assert shown(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a\nb\rc\td\x00\x1b[31m", r"a\nb\rc\td\x00\x1b[31m"),
        ("\udcff\ud800", r"\udcff\ud800"),
        ("a\u2028b\u202ec\x85", r"a\u2028b\u202ec\x85"),
        (Path("a\nb"), r"a\nb"),
    ],
)
def test_what_would_break_the_line_or_the_encoding_is_escaped(name, expected):
    assert shown(name) == expected == shown(expected) and expected.isprintable()


@pytest.mark.parametrize("count", [0, 1, SOME, SOME + 1, 12_345])
def test_the_first_names_are_told_and_how_many_there_are_beside_them(count):
    told = some([f"n{number}\n" for number in range(count)])
    assert told.startswith(", ".join(rf"n{number}\n" for number in range(min(count, SOME))))
    assert told.endswith(f" and {count - SOME:,} more") == (count > SOME)
