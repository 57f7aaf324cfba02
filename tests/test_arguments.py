"""Arguments in words: literals and bare words, nothing that would be evaluated."""

import pytest

from distmnist.arguments import parse_arguments
from distmnist.errors import UsageError


def test_values_are_literals_or_words():
    text = "depth=2, rate=-1e-3,norm=batch,sizes=(3,[5]),on=True,off=None,name='a b,c=d',code=\"\\d\""
    assert parse_arguments("--model-args", text) == {
        "depth": 2,
        "rate": -1e-3,
        "norm": "batch",
        "sizes": (3, [5]),
        "on": True,
        "off": None,
        "name": "a b,c=d",
        "code": "\\d",
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot be understood"),
        ("depth", "cannot be understood"),
        ("2=depth", "cannot be understood"),
        ("a=1)+f(b=2", "cannot be understood"),
        ("a=[1,2", "cannot be understood"),
        ("a=b c", "cannot be understood"),
        ("(" * 5000, "cannot be understood"),
        ("a=open('x')", "the value of a cannot be understood"),
        ("a=[b]", "the value of a cannot be understood"),
        ("a=1,a=2", "gives two values to a"),
        ("**a", "two stars before a"),
        ("a=true", "a=true: write a=True"),
        ("a=null", "a=null: write a=None"),
    ],
)
def test_all_else_is_one_short_line_that_names_the_option(text, told):
    with pytest.raises(UsageError) as caught:
        parse_arguments("--model-args", text)
    line = str(caught.value)
    assert line.startswith("--model-args") and told in line and "\n" not in line and len(line) < 250
