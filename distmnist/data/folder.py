"""Lists labelled image files from a folder of class folders. Files are only read, and no image is decoded."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from distmnist.data.listing import SPLITS, UNSPLIT, Found, ImageFile, Listing, make_listing, objection
from distmnist.errors import UsageError
from distmnist.text import shown, some

SYSTEM_NAMES = {"__macosx", "@eadir", "desktop.ini", "thumbs.db"}
"""What macOS, Synology and Windows leave in folders, in lower case. @eaDir holds thumbnails of the images beside it."""

IMAGE = re.compile(r"\.(avif|bmp|gif|hei[cf]|jfif|jpe?g?|p[bgnp]m|png|tga|tiff?|webp)$", re.IGNORECASE)
"""Names of files that need a class. Others may lie beside class folders: a licence, an archive."""

NO_IMAGE = re.compile(
    r"\.(avi|csv|db|docx?|gz|html?|ini|jsonl?|log|mat|md|mov|mp4|np[yz]|parquet|pdf|pkl|pt|py|rst|rtf|tar|toml|tsv|txt"
    r"|xlsx?|xml|ya?ml|zip)$",
    re.IGNORECASE,
)
"""Names of files that are ignored in a class folder. Any other file is listed, and decoding it shows what it is."""


def list_directory(root: Path, test_fraction: float = 0.2) -> Listing:
    """The images in the class folders of `root`, or in those of its folders train, val and test: see `SPLITS`.

    Without a test set, the validation set is the test set; without either, see `falls_in_test`. Raises UsageError: what
    `find_in_folder` and `make_listing` refuse.
    """
    found, notes = find_in_folder(root)
    return make_listing(root, found, test_fraction, notes)


def find_in_folder(root: Path) -> tuple[Found, list[str]]:
    """The images of each split, and lines to tell the user once.

    A file at any depth below a class folder belongs to that class. Links are followed. Empty folders count as absent.

    Raises UsageError: a file or folder that cannot be read; an image without a class folder; a split twice; a split
    folder beside class folders or inside one; a link to a folder that contains it.
    """
    walk = _Walk(root)
    folders = walk.class_folders(root)
    found: Found = {}
    for folder in folders:
        if split := SPLITS.get(folder.name.lower()):
            if split in found:
                raise UsageError(
                    f"{shown(root)} has more than one {split} folder, {shown(folder.name)} among them; keep one"
                )
            found[split] = walk.images(walk.class_folders(folder))
    rest = walk.images([folder for folder in folders if folder.name.lower() not in SPLITS])
    if found and rest:
        outside = some([image.name for image in rest])
        raise UsageError(f"{shown(root)} has split folders, and images outside of them: {outside}; move these into one")
    if walk.problems:
        raise UsageError(
            f"cannot read {some(walk.problems)}; repair or remove it, or choose another folder with --data"
        )
    return found or {UNSPLIT: rest}, walk.notes()


class _Walk:
    """Reads folders, and keeps track of what it ignored and of what it could not read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ignored: Counter[str] = Counter()
        self.problems: list[str] = []

    def children(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The folders and the files in `folder`, sorted, without hidden ones. A broken link is a file."""
        folders: list[Path] = []
        files: list[Path] = []
        try:
            for name in os.listdir(folder):
                if name.startswith(".") or name.lower() in SYSTEM_NAMES:
                    self.ignored["hidden or system files and folders"] += 1
                else:
                    (folders if os.path.isdir(folder / name) else files).append(folder / name)
        except OSError as error:
            self.problems.append(f"{folder}: {error.strerror}")
        return sorted(folders), sorted(files)

    def class_folders(self, parent: Path) -> list[Path]:
        """The folders in `parent`, which must have no images beside them."""
        folders, files = self.children(parent)
        if strays := [str(path) for path in files if IMAGE.search(path.name)]:
            raise UsageError(
                f"images without a class folder: {some(strays)}; move each into a folder named after its class, or list"
                " path and label in a CSV file"
            )
        self.ignored["other files"] += len(files)
        return folders

    def images(self, class_folders: Sequence[Path]) -> list[ImageFile]:
        """All images of these classes. Files that cannot be read are among them, and in `problems`."""
        found = []
        for top in class_folders:
            files = sorted(self.files_below(top))
            paths = [path for path in files if not NO_IMAGE.search(path.name)]
            self.ignored["other files"] += len(files) - len(paths)
            self.ignored["folders without images"] += not paths
            self.problems += [f"{path}: {problem}" for path in paths if (problem := objection(path))]
            found += [ImageFile(path.relative_to(self.root).as_posix(), path, top.name) for path in paths]
        for image in found:
            if not SPLITS.keys().isdisjoint(image.name.lower().split("/")[1:-1]):
                raise UsageError(
                    f"{shown(image.path)} lies in a split folder that is not directly in {shown(self.root)}; move or"
                    " rename that folder, or choose another one with --data"
                )
        return found

    def files_below(self, top: Path) -> Iterator[Path]:
        waiting = [(top, [Path(os.path.realpath(self.root))])]
        while waiting:
            folder, above = waiting.pop()
            real = Path(os.path.realpath(folder))
            if any(parent.is_relative_to(real) for parent in above):
                raise UsageError(f"{shown(folder)} is a link to a folder that contains it; remove the link")
            folders, files = self.children(folder)
            waiting += [(child, [*above, real]) for child in folders]
            yield from files

    def notes(self) -> list[str]:
        counts = [f"{count:,} {what}" for what, count in sorted(self.ignored.items()) if count]
        return [f"ignored in {shown(self.root)}: {', '.join(counts)}"] if counts else []
