"""`export/predict/` on pictures people make: a digit is found among paper, tables, printed lines and boxes.

A few styles and digits; benchmarks/pictures.py measures all of them on MNIST with a fully trained net.
"""

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from export_styles import FIRST, STYLES, deep, enlarged, in_a_box, placed, png
from PIL import Image

from benchmarks import pictures
from export import __main__ as command
from export import folder, predict
from export.predict import Predictor

pytest_plugins = ["export_fixtures"]

SUBSET = [
    "tight_crop",
    "no_margin",
    "tight_photograph",
    "paper_on_dark_table",
    "paper_on_black",
    "paper_on_wood",
    "slate_on_table",
    "ruled_paper_on_table",
    "squared_in_grey",
    "in_a_box",
    "in_a_row_of_boxes",
    "hair_thin",
    "brush",
    "card_with_shadow",
    "ten_bits",
    "broken_exif",
    "faint",
    "vignette",
    "blinds",
    "transparent_sticker",
]
COUNT = 10


@pytest.fixture(scope="session")
def known(predictor: Predictor, sample_digits) -> list[tuple[np.ndarray, int]]:
    """Test digits that the net reads right, and surely, when they are given as they are."""
    images, labels = sample_digits
    probabilities = predictor.predict(images)
    sure = (probabilities.argmax(1) == labels) & (probabilities.max(1) > 0.9)
    return [(images[i], int(labels[i])) for i in np.flatnonzero(sure)[:COUNT]]


@pytest.mark.parametrize("name", SUBSET)
def test_a_digit_is_read_in_a_picture_of_this_style(name: str, predictor: Predictor, known) -> None:
    style = {style.__name__: style for style in STYLES}[name]
    draw = np.random.default_rng(5)
    right = sum(predictor.read(style(image, draw)).digit == label for image, label in known)
    assert len(known) == COUNT
    assert right >= COUNT - 1


def test_the_styles_are_many_distinct_and_repeatable(sample_digits) -> None:
    assert len({style.__name__ for style in STYLES}) == len(STYLES) >= 40
    assert STYLES[: len(FIRST)] == FIRST
    image = sample_digits[0][0]
    for style in STYLES:
        first, again = (style(image, np.random.default_rng(1)) for _ in range(2))
        assert first == again, style.__name__


def test_held_back_seeds_are_not_those_of_development() -> None:
    assert not set(pictures.HELD_BACK) & set(pictures.DEVELOPMENT)


def test_a_style_is_judged_by_right_answers_silent_errors_and_warnings(predictor: Predictor, known) -> None:
    """A nine for every digit: all others are wrong, without a warning; a blank picture is wrong, with one."""
    images, labels = np.stack([image for image, _ in known]), np.array([label for _, label in known])
    nine = next((image for image, label in known if label == 9), None)
    assert nine is not None
    tally = pictures.measure(predictor, images, labels, lambda image, draw: png(Image.fromarray(nine)), 0)
    assert tally == pictures.Tally(int((labels == 9).sum()), int((labels != 9).sum()), 0)
    blank = pictures.measure(predictor, images, labels, lambda image, draw: png(Image.new("L", (90, 90))), 0)
    assert blank.silent == 0


# What find_digit tells apart


def test_a_sheet_on_a_table_is_not_taken_for_ink(sample_digits) -> None:
    """Wherever the sheet lies: what the net sees is the digit, as it is on white alone."""
    shape = enlarged(sample_digits[0][0], 60)
    for top, left in ((10, 10), (60, 90), (100, 130)):
        picture = np.full((240, 320), 40.0)
        picture[top : top + 120, left : left + 160] = 235
        row, column = top + 30, left + 70
        picture[row : row + shape.shape[0], column : column + shape.shape[1]] -= 190 * shape
        pixels, warnings = predict.prepare_digit(Image.fromarray(picture.astype(np.uint8)))
        alone, _ = predict.prepare_digit(Image.fromarray((235 - 190 * np.pad(shape, 60)).astype(np.uint8)))
        assert warnings == []
        assert np.abs(pixels.astype(int) - alone).mean() < 6


def test_a_printed_box_is_not_what_the_net_sees(sample_digits) -> None:
    for image in sample_digits[0][:8]:
        pixels, warnings = predict.prepare_digit(predict.open_digit(in_a_box(image, np.random.default_rng(0))))
        alone, _ = predict.prepare_digit(Image.fromarray(np.uint8(235 - 190 * np.pad(enlarged(image, 80), 40))))
        assert warnings == []
        assert np.abs(pixels.astype(int) - alone).mean() < 12


@pytest.mark.parametrize("light", [False, True])
def test_a_crop_without_any_margin_is_ink_on_paper_and_not_the_reverse(light: bool, sample_digits) -> None:
    """What the net sees is, but for the softness of its edges, what it sees of the same digit with a margin."""
    images, labels = sample_digits
    for image in images[labels == 0][:6]:
        shapes = enlarged(image, 120), np.pad(enlarged(image, 120), 60)
        seen = [
            predict.prepare_digit(Image.fromarray(np.uint8(255 * (s if light else 1 - s))))[0].astype(int)
            for s in shapes
        ]
        assert np.abs(seen[0] - seen[1]).mean() < 30  # of its negative: 50 and more


def test_pieces_are_labelled_as_by_flooding() -> None:
    """The fast labelling against the plainest one, on masks from nearly empty to nearly full."""
    draw = np.random.default_rng(0)
    for _ in range(40):
        mask = draw.random(tuple(draw.integers(1, 24, 2))) < draw.random()
        labels, count = predict.labelled(mask)
        left, found = mask.copy(), 0
        while left.any():
            piece = np.zeros_like(mask)
            piece.flat[np.argmax(left)] = True
            while (more := predict.grown(piece, 1) & mask).sum() > piece.sum():
                piece = more
            (number,) = set(labels[piece].tolist())
            assert (labels == number).sum() == piece.sum()
            left &= ~piece
            found += 1
        assert (count, (labels == -1).sum()) == (found, (~mask).sum())


def test_the_largest_value_of_a_window_is_that_of_every_window() -> None:
    draw = np.random.default_rng(0)
    for reach in range(6):
        plane = draw.random((17, 11)).astype(np.float32)
        padded = np.pad(plane, reach, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1))
        assert (predict.dilated(plane, reach) == windows.max((2, 3))).all()
        np.testing.assert_allclose(predict.blurred(plane, reach), windows.mean((2, 3)), atol=1e-6)


def test_an_answer_that_a_pixels_move_makes_unsure_carries_a_warning(predictor: Predictor, sample_digits) -> None:
    """Pairs of digits laid over each other; single digits that the net reads right carry hardly any."""
    images, labels = sample_digits
    laid = [np.maximum(a, b) for a, b in zip(images[:60], images[60:120], strict=True)]
    readings = predictor.readings(laid, [[]] * 60)
    for image, reading in zip(laid, readings, strict=True):
        moved = np.stack([np.roll(image, move, (0, 1)) for move in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))])
        mean = predictor.predict(moved)[:, reading.digit].mean()
        assert (predict.DOUBTFUL in reading.warnings) == (mean < predict.DOUBT)
        assert reading.probability == pytest.approx(float(predictor.predict(image[None]).max()), abs=1e-6)
    assert sum(bool(reading.warnings) for reading in readings) >= 3
    alone = predictor.readings(list(images[:200]), [[]] * 200)
    right = [reading for reading, label in zip(alone, labels, strict=False) if reading.digit == label]
    assert sum(bool(reading.warnings) for reading in right) <= 0.1 * len(right)


# Files


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_a_picture_of_any_depth_is_read(bits: int, predictor: Predictor, known) -> None:
    draw = np.random.default_rng(bits)
    assert [predictor.read(deep(image, draw, bits)).digit for image, _ in known] == [label for _, label in known]


def exif_chunk(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))


@pytest.mark.parametrize(
    "block", [b"", b"no TIFF at all", b"MM\x00\x2a\x00\x00\x00\x08\xff\xff", b"II\x2a\x00\xff\xff\xff\xff"]
)
def test_a_broken_exif_block_is_no_reason_to_refuse_a_picture(block: bytes, predictor: Predictor, known) -> None:
    image, label = known[0]
    whole = png(Image.fromarray(image))
    head = 8 + 25  # the signature and IHDR
    assert predictor.read(whole[:head] + exif_chunk(block) + whole[head:]).digit == label


def test_a_telephones_largest_photograph_is_read(predictor: Predictor, known) -> None:
    """8160 x 6144, as a JPEG."""
    image, label = known[0]
    sheet = placed(enlarged(image, 120), np.random.default_rng(0), 192, 255)
    small = Image.fromarray((230 - 190 * sheet).astype(np.uint8))
    buffer = io.BytesIO()
    small.resize((8160, 6144)).save(buffer, "JPEG", quality=60)
    assert predictor.read(buffer.getvalue()).digit == label


def test_hidden_files_in_a_folder_are_not_images(exported: Path, tmp_path: Path, sample_digits, capsys) -> None:
    Image.fromarray(sample_digits[0][0]).save(tmp_path / "1.png")
    (tmp_path / "._1.png").write_bytes(b"\x00\x05\x16\x07 what macOS keeps beside it")
    (tmp_path / ".DS_Store").write_bytes(b"Bud1")
    assert predict.main([str(exported / "cnn.pixels.onnx"), str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert [line.split("\t")[0] for line in out.splitlines()] == [str(tmp_path / "1.png")]
    assert err == ""
    shutil.move(tmp_path / "1.png", tmp_path / ".1.png")
    assert predict.main([str(exported / "cnn.pixels.onnx"), str(tmp_path)]) == 2
    assert "without a PNG or JPEG file" in capsys.readouterr().err


def test_hidden_files_in_an_export_are_not_part_of_it(deployed_mlp: Path, few_batches, capsys) -> None:
    for name in (".DS_Store", "._mlp.onnx", "mlp/.DS_Store"):
        (deployed_mlp / name).write_bytes(b"Bud1")
    assert folder.read(deployed_mlp)[1] == []
    assert command.main(["--verify", str(deployed_mlp)]) == 0
    (deployed_mlp / "stranger.onnx").write_bytes(b"")
    assert folder.read(deployed_mlp)[1] == ["stranger.onnx is not of this export"]
