"""Runs the command: `python -m export.predict`, or `python FOLDER` where the package is deployed, whatever its name."""

import sys

if __package__:
    from . import command
else:  # run as a folder: Python has put that on sys.path, where its modules would hide others of the same name
    from importlib import util
    from pathlib import Path

    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    spec = util.spec_from_file_location("predict", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec and spec.loader, "__init__.py is a file that Python imports"
    sys.modules["predict"] = package = util.module_from_spec(spec)
    spec.loader.exec_module(package)
    command = package.command

if __name__ == "__main__":
    command()
