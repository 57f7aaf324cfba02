"""Puts the package export/predict into an exported folder, where it runs without torch and without distmnist."""

from pathlib import Path

from distmnist.data import prepare

LAUNCHER = '''"""Runs the folder predict beside this file: python predict.py MODEL.pixels.onnx IMAGE..."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name("predict")), run_name="__main__")
'''


def write(staged: Path) -> None:
    """staged/predict, with the preparation of image files in it, and staged/predict.py, which runs it."""
    target = staged / "predict"
    target.mkdir()
    for module in Path(__file__).with_name("predict").glob("*.py"):
        (target / module.name).write_bytes(module.read_bytes())
    (target / "prepare.py").write_bytes(Path(prepare.__file__).read_bytes())
    (staged / "predict.py").write_text(LAUNCHER)
