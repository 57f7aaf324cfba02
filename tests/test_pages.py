"""The pages name files that are there: a page that a move has left behind misleads."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("*/README.md"), *(ROOT / "docs").glob("*.md")]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """What a link's #... may name: the page's headings, as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_file_that_is_named_by_its_path_is_there(page):
    folders = "distmnist|export|tests|benchmarks|launch|docs"
    for name in re.findall(rf"`((?:{folders})/[\w/.]*)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_every_name_that_the_guide_tells_to_extend_is_there():
    """In CONTRIBUTING.md, a name in backticks stands in one of the files that the same step names."""
    steps = re.split(r"\n(?=\d\. |\n)", (ROOT / "CONTRIBUTING.md").read_text().partition("## Add an option")[2])
    checked = 0
    for step in steps:
        words = re.findall(r"`([^`]+)`", step)
        files = [ROOT / word for word in words if (ROOT / word).is_file()]
        names = [word for word in words if re.fullmatch(r"\w+", word)]
        if files:
            text = "\n".join(file.read_text() for file in files)
            for name in names:
                assert re.search(rf"\b{name}\b", text), f"{name} is not in {[str(file) for file in files]}"
                checked += 1
    assert checked > 10
