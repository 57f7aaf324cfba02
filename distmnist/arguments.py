"""Arguments in words, as --model-args has them: depth=2,norm=batch,sizes=(3,5)."""

import ast
import warnings

from distmnist.errors import UsageError

FORM = "write NAME=VALUE,... with numbers, True, False, None, or words, quoted unless they are names"

MEANT = {"true": "True", "false": "False", "none": "None", "null": "None"}
"""Words that are no words: as strings, all of them would count as true."""


def parse_arguments(option: str, text: str) -> dict[str, object]:
    """Name -> value, in their order. A value is a literal of Python or a bare word; nothing is evaluated.

    Raises UsageError, which names the option, for anything else, and for a name that occurs twice.
    """
    told = text if len(text) <= 80 else f"{text[:77]}..."
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes in quoted words
            call = ast.parse(f"f({text})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{option} {told} cannot be understood; {FORM}") from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args or not call.keywords:
        raise UsageError(f"{option} {told} cannot be understood; {FORM}")
    values: dict[str, object] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in values:
            problem = "gives two values to" if keyword.arg else "has two stars before"
            raise UsageError(f"{option} {told} {problem} {keyword.arg or ast.unparse(keyword.value)}; {FORM}")
        values[keyword.arg] = _value(option, keyword.arg, keyword.value)
    return values


def _value(option: str, name: str, node: ast.expr) -> object:
    if isinstance(node, ast.Name):
        if meant := MEANT.get(node.id.lower()):
            raise UsageError(f"{option} {name}={node.id}: write {name}={meant}, or quote the word")
        return node.id
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise UsageError(f"{option}: the value of {name} cannot be understood; {FORM}") from error
