"""What the tests of one run of the command share: its shortest form, and readers of what it said and left."""

import json
import tempfile
from pathlib import Path

SMALL = ("--model=mlp", "--epochs=2", "--batch-size=60", "--amp=off", "--threads=1")


def refusal(answer):
    """The one line with which the command refused."""
    code, out, err = answer
    assert (code, out, len(err)) == (2, [], 1)
    return err[0]


def contents(folder):
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"}


def figures(run, net="mlp"):
    return json.loads(Path(run, "summary.json").read_text())["models"][net]


def find_no_temporary_directory():
    """As Python does where none can be written. Here, for the process that calls it imports this module alone."""
    tempfile._candidate_tempdir_list = lambda: ["/absent"]
    tempfile.tempdir = None
