"""Which image files there are, of which class and in which split: every rule on a small tree of files."""

import hashlib
import os
import sys
from pathlib import Path

import pytest

from distmnist.data.csv_file import list_csv
from distmnist.data.folder import list_directory
from distmnist.data.listing import Entry, Listing
from distmnist.errors import UsageError

CLASSES = ("cat", "dog")


def fill(root: Path, *names: str, content: bytes | None = None) -> Path:
    """Makes files. Their content is their name, unless it is given: nothing decodes them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() if content is None else content)
    return root


def split_folders(root: Path, *splits: str, classes: tuple[str, ...] = CLASSES) -> Path:
    """Two images of each class in each split."""
    return fill(root, *(f"{split}/{name}/{n}.png" for split in splits for name in classes for n in (1, 2)))


def class_folders(root: Path, count: int = 40, classes: tuple[str, ...] = CLASSES) -> Path:
    return fill(root, *(f"{name}/{n}.png" for name in classes for n in range(count)))


def names(entries: tuple[Entry, ...]) -> list[str]:
    return [entry.name for entry in entries]


def everything(found: Listing) -> list[str]:
    return sorted(names(found.train) + names(found.validation) + names(found.test))


def refusal(call, *arguments) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_split_folders_become_splits_and_their_folders_classes(tmp_path, validation):
    found = list_directory(split_folders(tmp_path, "train", validation, "test"))
    assert found.class_names == CLASSES and found.notes == ()
    assert found.train == tuple(
        Entry(tmp_path / "train" / name / f"{n}.png", f"train/{name}/{n}.png", label)
        for label, name in enumerate(CLASSES)
        for n in (1, 2)
    )
    assert names(found.validation) == [f"{validation}/{name}/{n}.png" for name in CLASSES for n in (1, 2)]
    assert names(found.test) == [f"test/{name}/{n}.png" for name in CLASSES for n in (1, 2)]


@pytest.mark.parametrize("folder", ["Train", "TRAIN", "training", "Training"])
def test_a_training_folder_spelt_otherwise_is_a_split_and_no_class(tmp_path, folder):
    found = list_directory(split_folders(tmp_path, folder, "Testing"))
    assert found.class_names == CLASSES
    assert names(found.train)[0] == f"{folder}/cat/1.png" and names(found.test)[0] == "Testing/cat/1.png"


def test_classes_are_matched_by_name_where_a_split_lacks_one(tmp_path):
    fill(split_folders(tmp_path, "train", classes=("ant", "bee", "cow")), "test/bee/1.png", "test/cow/1.png")
    assert [(entry.name, entry.label) for entry in list_directory(tmp_path).test] == [
        ("test/bee/1.png", 1),
        ("test/cow/1.png", 2),
    ]


def test_class_names_are_sorted_by_code_point_and_numbers_by_value(tmp_path):
    assert list_directory(
        split_folders(tmp_path / "a", "train", "test", classes=("b", "B", "10", "9"))
    ).class_names == (
        "10",
        "9",
        "B",
        "b",
    )
    numbers = tuple(map(str, range(12)))
    found = list_directory(split_folders(tmp_path / "b", "train", "test", classes=numbers))
    assert found.class_names == numbers
    assert {entry.name.split("/")[1]: entry.label for entry in found.train} == {name: int(name) for name in numbers}


def test_files_at_any_depth_belong_to_their_class_and_are_sorted_by_name(tmp_path):
    fill(split_folders(tmp_path, "test"), "train/dog/a/b/c.png", "train/dog/a.png", "train/dog/B.png", "train/cat/x")
    found = list_directory(tmp_path)
    assert names(found.train) == ["train/cat/x", "train/dog/B.png", "train/dog/a.png", "train/dog/a/b/c.png"]
    assert [entry.label for entry in found.train] == [0, 1, 1, 1]


def test_without_a_test_set_the_validation_set_is_it_and_a_note_says_so(tmp_path):
    found = list_directory(split_folders(tmp_path, "train", "val"))
    assert names(found.test) == [f"val/{name}/{n}.png" for name in CLASSES for n in (1, 2)]
    assert found.validation == () and len(found.train) == 4
    [note] = found.notes
    assert "no test set" in note and "validation set, 4 images, is used as one" in note


@pytest.mark.parametrize("layout", ["", "train/"])
def test_without_either_the_files_own_digest_decides_and_a_note_says_so(tmp_path, layout):
    class_folders(tmp_path / layout)
    found = list_directory(tmp_path, 0.3)
    assert found.validation == ()
    for entries, is_test in ((found.train, False), (found.test, True)):
        for entry in entries:
            fraction = int(hashlib.sha256(entry.path.read_bytes()).hexdigest(), 16) / 2**256
            assert (fraction < 0.3) is is_test
    assert 10 < len(found.test) < 40 and len(everything(found)) == 80
    [note] = found.notes
    assert f"{len(found.test)} of 80 images" in note


def test_added_files_move_no_other_between_training_and_test(tmp_path):
    before = list_directory(class_folders(tmp_path))
    fill(tmp_path, *(f"{name}/0{n}.png" for name in ("ant", *CLASSES) for n in range(40)))
    after = list_directory(tmp_path)
    assert set(names(before.train)) < set(names(after.train)) and set(names(before.test)) < set(names(after.test))


def test_copies_of_a_file_lie_on_one_side_whatever_they_are_called(tmp_path):
    class_folders(tmp_path)
    for n in range(8):
        fill(tmp_path, *(f"{name}/copy{copy}.{n}" for name in CLASSES for copy in range(5)), content=bytes([n]))
    found = list_directory(tmp_path)
    sides = [{entry.name[-1] for entry in side if "copy" in entry.name} for side in (found.train, found.test)]
    assert sides[0] | sides[1] == set("01234567") and not sides[0] & sides[1]


def test_a_class_that_the_automatic_split_leaves_on_one_side_is_refused_with_its_count(tmp_path):
    fill(class_folders(tmp_path), *(f"cow/{n}.png" for n in range(3)), content=b"1")  # digest 6b..., a fraction of 0.42
    message = refusal(list_directory, tmp_path, 0.3)
    assert "no test images of cow (3 in all); add images" in message and "--test-fraction 0.3" in message
    assert "no training images of cow (3 in all)" in refusal(list_directory, tmp_path, 0.5)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 20, float("nan")])
def test_a_test_fraction_outside_0_to_1_is_refused(tmp_path, fraction):
    message = refusal(list_directory, class_folders(tmp_path), fraction)
    assert message.startswith(f"--test-fraction {fraction} is not between 0 and 1;")


def test_what_is_no_image_is_ignored_and_counted_in_one_note(tmp_path):
    split_folders(tmp_path, "train", "test")
    expected = everything(list_directory(tmp_path))
    fill(tmp_path, ".git/x.png", "__MACOSX/cat/1.png", "train/.DS_Store", "train/cat/._1.png", "test/cat/Thumbs.db")
    fill(tmp_path, "train/cat/desktop.ini", "train/.hidden/1.png", "train/dog/@eaDir/1.png/SYNO_THUMB.jpg")
    fill(tmp_path, "README.md", "LICENSE", "train/list.csv", "train/cat/notes.TXT", "annotations/train/1.xml")
    (tmp_path / "train" / "empty").mkdir()
    (tmp_path / "test" / "nested" / "empty").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    found = list_directory(tmp_path)
    assert everything(found) == expected and found.class_names == CLASSES and found.validation == ()
    [note] = found.notes
    assert note == (
        f"ignored in {tmp_path}: 3 folders without images, 8 hidden or system files and folders, 5 other files"
    )


def test_an_empty_test_folder_counts_as_absent(tmp_path):
    class_folders(tmp_path / "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    assert list_directory(tmp_path).test


@pytest.mark.parametrize("suffix", ["", ".jpeg", ".JPG", ".dat", ".img"])
def test_only_a_clearly_different_suffix_keeps_a_file_out_of_its_class(tmp_path, suffix):
    fill(split_folders(tmp_path, "train", "test"), f"train/cat/other{suffix}", "train/cat/other.json")
    added = [name for name in names(list_directory(tmp_path).train) if "other" in name]
    assert added == [f"train/cat/other{suffix}"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no images; add some, or choose a folder of class folders"),
        (["notes.txt", ".cat/1.png"], "has no images;"),
        (["a.png", "b.png", "c.png", "d.png", "e.png"], "a.png, {root}/b.png, {root}/c.png and 2 more; move each into"),
        (["train/cat/1.png", "train/1.jpg"], "images without a class folder: {root}/train/1.jpg; move"),
        (["cat/1.png"], "has one class only, cat;"),
        (["train/cat/1.png", "test/cat/1.png"], "has one class only, cat;"),
        (["test/cat/1.png", "test/dog/1.png"], "has no training images;"),
        (["train/cat/1.png", "train/dog/1.png", "test/cow/1.png"], "classes in test but not in train: cow;"),
        (["train/cat/1.png", "train/dog/1.png", "val/Dog/1.png"], "classes in validation but not in train: Dog;"),
        (
            ["train/cat/1.png", "val/cat/1.png", "valid/cat/1.png"],
            "has more than one validation folder, valid among them; keep",
        ),
        (["train/cat/1.png", "cow/1.png"], "images outside of them: cow/1.png; move these"),
        (
            ["train/train/cat/1.png", "train/train/dog/1.png"],
            "/train/train/cat/1.png lies in a split folder that is not",
        ),
        (["cat/Test/1.png", "dog/1.png"], "/cat/Test/1.png lies in a split folder that is not directly in {root};"),
    ],
)
def test_a_tree_that_could_be_misread_is_refused_in_one_line(tmp_path, files, message):
    assert message.format(root=tmp_path) in refusal(list_directory, fill(tmp_path, *files))


def test_a_missing_folder_and_a_file_in_its_place_are_named(tmp_path):
    fill(tmp_path, "file.dat")
    for name in ("absent", "file.dat"):
        message = refusal(list_directory, tmp_path / name)
        assert message.startswith(f"cannot read {tmp_path / name}: ") and "--data" in message


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_with_control_characters_or_undecodable_bytes_are_shown_escaped(tmp_path):
    assert r"/a\nb.png; move" in refusal(list_directory, fill(tmp_path / "stray", "a\nb.png"))
    message = refusal(list_directory, class_folders(tmp_path / "class", 2, classes=("cat", "do\x1bg")))
    assert r"the class name 'do\x1bg' is not one line of text; rename the class" in message
    undecodable = os.fsdecode(b"d\xffg")
    try:
        (tmp_path / "bytes" / undecodable).mkdir(parents=True)
    except OSError:
        return  # macOS keeps such names out itself
    (tmp_path / "bytes" / undecodable / "1.png").touch()
    assert r"d\udcffg" in refusal(list_directory, fill(tmp_path / "bytes", "cat/1.png"))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_to_files_and_folders_are_followed(tmp_path):
    fill(split_folders(tmp_path / "set", "train"), "train/cat/3.png")
    split_folders(tmp_path / "elsewhere", "test")
    fill(tmp_path / "elsewhere", "single.png")
    (tmp_path / "set" / "test").symlink_to(tmp_path / "elsewhere" / "test")
    (tmp_path / "set" / "train" / "dog" / "linked.png").symlink_to(tmp_path / "elsewhere" / "single.png")
    (tmp_path / "set" / "train" / "dog" / "more").symlink_to(tmp_path / "set" / "train" / "cat")
    found = list_directory(tmp_path / "set")
    assert names(found.test) == [f"test/{name}/{n}.png" for name in CLASSES for n in (1, 2)]
    assert [name for name in names(found.train) if "dog" in name] == [
        f"train/dog/{name}.png" for name in ("1", "2", "linked", "more/1", "more/2", "more/3")
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.parametrize(
    "links",
    [{"cat/loop": "cat"}, {"cat/loop": "."}, {"cat/loop": ".."}, {"loop": "."}, {"cat/x": "dog", "dog/y": "cat"}],
)
def test_a_link_to_a_folder_that_contains_it_is_refused_by_name(tmp_path, links):
    root = class_folders(tmp_path / "set", 2)
    for link, target in links.items():
        (root / link).symlink_to((root / target).resolve(), target_is_directory=True)
    assert "is a link to a folder that contains it; remove the link" in refusal(list_directory, root)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_broken_links_and_pipes_are_named_together_instead_of_dropped_or_waited_for(tmp_path):
    split_folders(tmp_path, "train", "test")
    for n in range(3):
        (tmp_path / "train" / "cat" / f"broken{n}.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "test" / "dog" / "pipe")
    message = refusal(list_directory, tmp_path)
    assert f"{tmp_path}/train/cat/broken0.png: No such file or directory" in message and "and 1 more;" in message
    for n in range(3):
        (tmp_path / "train" / "cat" / f"broken{n}.png").unlink()
    assert f"cannot read {tmp_path}/test/dog/pipe: not a file;" in refusal(list_directory, tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_without_permission_are_named_together(tmp_path):
    split_folders(tmp_path, "train", "test")
    closed = [tmp_path / "train" / "cat" / "1.png", tmp_path / "test" / "dog"]
    for path in closed:
        path.chmod(0)
    message = refusal(list_directory, tmp_path)
    closed[1].chmod(0o700)
    assert all(f"{path}: Permission denied" in message for path in closed)


def csv(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    """A file of these lines, and the images that it may name."""
    fill(folder, *(f"images/{n}.png" for n in range(8)))
    (folder / "set.csv").write_text("\n".join(lines) + "\n", encoding=encoding, newline="")
    return folder / "set.csv"


def rows(*splits: str) -> list[str]:
    """A cat and a dog in each of the splits."""
    return [f"images/{n}.png,{CLASSES[n % 2]},{splits[n // 2]}" for n in range(2 * len(splits))]


def test_a_csv_names_images_relative_to_itself_with_label_and_split(tmp_path, monkeypatch):
    file = csv(tmp_path / "here", "path,label,split", *rows("test", "train", "VAL"))
    monkeypatch.chdir(tmp_path)
    found = list_csv(file)
    assert found.class_names == CLASSES and found.notes == ()
    assert found.train == tuple(
        Entry(tmp_path / "here" / "images" / f"{n}.png", f"images/{n}.png", n % 2) for n in (2, 3)
    )
    assert names(found.validation) == ["images/4.png", "images/5.png"]
    assert names(found.test) == ["images/0.png", "images/1.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_columns_are_found_by_name_with_or_without_a_byte_order_mark(tmp_path, encoding):
    lines = ["Label , size, PATH, split", "", "'Katze, grün',9, './images/0.png', train"]
    lines = [line.replace("'", '"') for line in lines]
    lines += ["dog,9,images/../images/1.png,train\r", ",,,\r", "dog,9,images/2.png,test\r"]
    found = list_csv(csv(tmp_path, *lines, encoding=encoding))
    assert found.class_names == ("Katze, grün", "dog")
    assert [(entry.name, entry.label) for entry in found.train] == [("images/0.png", 0), ("images/1.png", 1)]
    assert names(found.test) == ["images/2.png"]


@pytest.mark.parametrize("header", ["path,label", "path,label,split"])
def test_a_csv_without_splits_is_split_as_a_directory_is(tmp_path, header):
    class_folders(tmp_path)
    expected = list_directory(tmp_path)
    lines = [f"{name},{name[:3]}{',' * header.count('split')}" for name in everything(expected)]
    assert list_csv(csv(tmp_path / "..", *[header], *[f"{tmp_path.name}/{line}" for line in lines])).test == tuple(
        Entry(tmp_path / ".." / tmp_path.name / entry.name, f"{tmp_path.name}/{entry.name}", entry.label)
        for entry in expected.test
    )


def test_the_validation_split_of_a_csv_without_a_test_split_is_the_test_set(tmp_path):
    found = list_csv(csv(tmp_path, "path,label,split", *rows("train", "valid")))
    assert names(found.test) == ["images/2.png", "images/3.png"] and found.validation == ()
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "line 1: found the columns ; name them path, label"),
        (
            ["images/0.png,cat"],
            "line 1: found the columns images/0.png, cat; name them path, label and, if needed, split",
        ),
        (
            ["path;label"],
            "found the columns path;label; name them path, label and, if needed, split, once each, separated",
        ),
        (["path,label,label"], "found the columns path, label, label; name them"),
        (["path,label"], "has no images;"),
        (["path,label", "images/0.png,cat", "", "images/1.png,"], "line 4: no label;"),
        (["path,label", " ,cat"], "line 2: no path;"),
        (["path,label", "images/0,1.png,cat"], "line 2: 3 cells for 2 columns;"),
        (["path,label,split", "images/0.png,cat"], "line 2: 2 cells for 3 columns;"),
        (["path,label,split", "images/0.png,cat,dev"], "line 2: the split dev is not train, val or test;"),
        (
            ["path,label", "images/0.png,cat", "images/0.png,cat"],
            "line 3: images/0.png again, as cat after cat on line 2;",
        ),
        (
            ["path,label", "images/0.png,cat", "images/../images/0.png,dog"],
            "line 3: images/0.png again, as dog after cat on line",
        ),
        (
            ["path,label,split", *rows("train", "test"), "images/7.png,cat,"],
            "no split for images/7.png; give every image",
        ),
        (["path,label,split", *rows("test")], "has no training images;"),
        (
            ["path,label,split", *rows("train", "test"), "images/7.png,cow,test"],
            "classes in test but not in train: cow;",
        ),
        (["path,label", "images/0.png,cat", "images/1.png,cat"], "has one class only, cat;"),
        (
            ["path,label", 'images/0.png,"ca\nt"', "images/1.png,dog"],
            r"the class name 'ca\nt' is not one line of text;",
        ),
        (["path,label", 'images/0.png,"cat"x'], "is not CSV in UTF-8 after line 1: "),
        (["path,label", "images/\0.png,cat"], r"line 2: images/\x00.png: embedded null"),
    ],
)
def test_a_csv_that_could_be_misread_is_refused_in_one_line_that_says_where(tmp_path, lines, message):
    file = csv(tmp_path, *lines)
    told = refusal(list_csv, file)
    assert message in told and str(file) in told


def test_all_files_that_a_csv_names_in_vain_are_reported_at_once(tmp_path):
    file = csv(tmp_path, "path,label", "images/0.png,cat", *(f"no{n}.png,dog" for n in range(5)), "images,cat")
    message = refusal(list_csv, file)
    assert f"{file}, line 3: no0.png: No such file or directory, line 4: no1.png:" in message
    assert "no2.png" in message and "no3.png" not in message and "and 3 more;" in message


def test_a_csv_that_is_missing_or_not_utf_8_is_named(tmp_path):
    assert f"cannot read {tmp_path / 'absent.csv'}: No such file" in refusal(list_csv, tmp_path / "absent.csv")
    assert "is not CSV in UTF-8" in refusal(list_csv, csv(tmp_path, "path,label", encoding="utf-16"))
