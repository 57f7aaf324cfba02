"""distmnist.export in a clone, where the package lies beside distmnist: every command has one name everywhere.

Installed, the package itself is here, and this file is not.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parents[2] / "export")]
