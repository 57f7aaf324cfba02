"""Imports what the user names on the command line as package.module:name; no file of a run is ever asked for a name."""

import importlib
import os
import sys
from collections.abc import Callable

from distmnist.errors import UsageError
from distmnist.text import shown


def import_callable(option: str, spec: str, kind: str = "function") -> Callable[..., object]:
    """What `spec`, the value of `option`, names. Modules in the current directory are found, after all others.

    kind: what it is called in messages. Raises UsageError: the text has another form; the module is not found, or
    raises; there is no such callable in it.
    """
    check_form(option, spec, kind)
    module, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # at the end: a random.py of the user's must not replace Python's
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise UsageError(
                f"{option} {spec}: importing {module} raised {told(error)}; install what it needs"
            ) from error
        raise UsageError(
            f"{option} {spec}: no module {error.name}, neither installed nor in {shown(os.getcwd())}; correct the"
            " name, or change to its directory"
        ) from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{option} {spec}: importing {module} raised {told(error)}; correct the module") from error
    if not callable(found):
        problem = "has no" if found is None else "has something else as its"
        raise UsageError(f"{option} {spec}: {module} {problem} {kind} {name}; correct the name")
    return found


def check_form(option: str, spec: str, kind: str = "function") -> None:
    """Raises UsageError if `spec` is not package.module:name. Imports nothing."""
    module, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise UsageError(f"{option} {shown(spec)} is not of the form package.module:{kind}; correct it")


def told(error: BaseException) -> str:
    """Type and message in one line of at most 300 characters."""
    message = shown(" ".join(str(error).split()))[:300]
    return f"{type(error).__name__}{': ' if message else ''}{message}"
