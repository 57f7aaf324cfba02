"""A version that is written in two places is the same in both; pyproject.toml is the one that counts."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_dockerfile_installs_torch_within_the_bounds_of_the_package():
    """Otherwise a later layer could replace the CPU builds of the first one."""
    installed = re.findall(r'"(torch[^"]*)"', (ROOT / "launch" / "Dockerfile").read_text())
    assert installed == [line for line in PROJECT["dependencies"] if line.startswith("torch")]


def test_the_dockerfiles_python_is_one_that_the_package_takes():
    image = re.search(r"^FROM python:3\.(\d+)", (ROOT / "launch" / "Dockerfile").read_text(), re.MULTILINE)
    oldest = re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])
    assert int(image[1]) >= int(oldest[1])


def test_the_pre_commit_hooks_run_the_ruff_that_ci_runs():
    (ruff,) = (line for line in PROJECT["optional-dependencies"]["dev"] if line.startswith("ruff"))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r'additional_dependencies: \["(ruff.*)"\]', hooks) == [ruff, ruff]


def test_ci_runs_on_the_oldest_python_that_the_package_takes():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r'python-version: "(.*)"', workflow) == [PROJECT["requires-python"].removeprefix(">=")]
    assert "- run: .ci/run\n" in workflow
