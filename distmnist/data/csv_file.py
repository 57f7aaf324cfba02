"""Lists labelled image files from a CSV file. Files are only read, and no image is decoded."""

import csv
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from distmnist.data.listing import SPLITS, UNSPLIT, Found, ImageFile, Listing, make_listing, objection
from distmnist.errors import UsageError
from distmnist.text import shown, some


def list_csv(path: Path, test_fraction: float = 0.2) -> Listing:
    """The images in a CSV file: see `find_in_csv`. If none has a split, see `falls_in_test`.

    Raises UsageError: what `find_in_csv` and `make_listing` refuse.
    """
    return make_listing(path, find_in_csv(path), test_fraction, [])


def find_in_csv(path: Path) -> Found:
    """The images in a CSV file, UTF-8, with the columns path and label, and perhaps split. Others are ignored.

    Paths are relative to the CSV file's folder. Labels are class names. Either each image has a split (see `SPLITS`),
    or none has. White space around a cell is removed.

    Raises UsageError with line numbers: not CSV, or without the columns; a row of another length than the header;
    no path, label or split; an unknown split; a path twice; a file that cannot be read.
    """
    rows = _rows(path)
    line, header = next(rows, (1, []))
    columns = [column.lower() for column in header]
    if columns.count("path") != 1 or columns.count("label") != 1 or columns.count("split") > 1:
        raise UsageError(
            f"{shown(path)}, line {line}: found the columns {some(header)}; name them path, label and, if needed,"
            " split, once each, separated by commas"
        )
    found: defaultdict[str, list[ImageFile]] = defaultdict(list)
    first: dict[str, str] = {}
    problems = []
    for line, cells in rows:
        row = defaultdict(str, zip(columns, cells, strict=False))
        image = ImageFile(Path(os.path.normpath(row["path"])).as_posix(), path.parent / row["path"], row["label"])
        key = os.path.normpath(image.path)
        if len(cells) != len(columns):
            problem: str | None = f"{len(cells)} cells for {len(columns)} columns"
        elif not row["path"] or not row["label"]:
            problem = f"no {'label' if row['path'] else 'path'}"
        elif row["split"] and row["split"].lower() not in SPLITS:
            problem = f"the split {row['split']} is not train, val or test"
        elif key in first:
            problem = f"{image.name} again, as {image.class_name} after {first[key]}"
        else:
            problem = (reason := objection(image.path)) and f"{image.name}: {reason}"
            found[SPLITS.get(row["split"].lower(), UNSPLIT)].append(image)
            first[key] = f"{image.class_name} on line {line}"
        if problem:
            problems.append(f"line {line}: {problem}")
    if problems:
        raise UsageError(f"{shown(path)}, {some(problems)}; correct the file")
    if UNSPLIT in found and len(found) > 1:
        raise UsageError(
            f"{shown(path)}: no split for {some([image.name for image in found[UNSPLIT]])}; give every image one, or"
            " none"
        )
    return found


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of each row that is not blank."""
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            for cells in reader:
                line = reader.line_num
                if any(map(str.strip, cells)):
                    yield line, [cell.strip() for cell in cells]
    except OSError as error:
        raise UsageError(
            f"cannot read {shown(path)}: {error.strerror}; choose another file with --data, or --data sample"
        ) from error
    except (UnicodeError, csv.Error) as error:
        raise UsageError(f"{shown(path)} is not CSV in UTF-8 after line {line}: {error}; save it as such") from error
