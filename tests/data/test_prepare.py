"""Preparing images: each rule of distmnist.data.prepare, on small images made here."""

import ast
import io
import json
import struct
import sys
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from distmnist.data import prepare as module
from distmnist.data.prepare import MAX_PIXELS, ImageError, Preparation, measure, prepare

ORIENTATION = 0x0112


def encoded(image, file_format="PNG", **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def grey(rows, dtype=np.uint8):
    return Image.fromarray(np.array(rows, dtype))


def noise(height, width, *channels):
    return np.random.default_rng(0).integers(0, 256, (height, width, *channels), np.uint8)


def prepared(content, height=1, width=1, channels=1, resize_mode="squash"):
    return prepare(content, Preparation(height=height, width=width, channels=channels, resize_mode=resize_mode))


def as_stored(content, channels=1):
    """Prepared at the image's own size, where no pixel is resampled."""
    height, width = measure(content)
    return prepared(content, height, width, channels)


def colour(content):
    """The [red, green, blue] of a file's first pixel."""
    return as_stored(content, channels=3)[:, 0, 0].tolist()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth, colour_type, rows, before=b"", after=b""):
    """A PNG written chunk by chunk, for what Pillow does not write. rows: each begins with its filter byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + pixels + after + chunk(b"IEND", b"")


def refusal(content):
    """The message with which an image is refused, by `prepare`."""
    with pytest.raises(ImageError) as refused:
        prepared(content)
    message = str(refused.value)
    assert message and message.isprintable() and len(message) < 250
    return message


# The module, and what it returns


def test_it_needs_the_standard_library_numpy_and_pillow_alone():
    imported = set()
    with open(module.__file__) as file:
        for node in ast.walk(ast.parse(file.read())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"numpy", "PIL"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize_mode", module.RESIZE_MODES)
def test_the_result_is_a_contiguous_writable_uint8_array_with_the_channels_first(channels, resize_mode):
    result = prepared(encoded(Image.fromarray(noise(9, 5, 3))), 4, 6, channels, resize_mode)
    assert result.shape == (channels, 4, 6) and result.dtype == np.uint8
    assert result.flags.c_contiguous and result.flags.writeable


def test_a_file_and_its_content_give_the_same_bits(tmp_path):
    content = encoded(Image.fromarray(noise(20, 30, 3)), "JPEG")
    (tmp_path / "photo").write_bytes(content)
    assert np.array_equal(prepared(tmp_path / "photo", 8, 8), prepared(content, 8, 8))
    assert measure(tmp_path / "photo") == measure(content) == (20, 30)


def test_a_preparation_survives_json():
    preparation = Preparation(height=28, width=32, resize_mode="pad", channels=3)
    assert Preparation.from_json(json.loads(json.dumps(preparation.to_json()))) == preparation


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 0},
        {"width": -1},
        {"height": True},
        {"width": 28.0},
        {"height": 2**20, "width": 2**20},
        {"channels": 2},
        {"channels": "1"},
        {"resize_mode": "stretch"},
        {"resize_mode": None},
        {"interpolation": "nearest"},
    ],
)
def test_a_stored_preparation_with_a_wrong_or_an_unknown_field_is_refused(wrong):
    with pytest.raises(ValueError):
        Preparation.from_json({"height": 28, "width": 28, "resize_mode": "squash", "channels": 1} | wrong)


def test_a_stored_preparation_without_a_field_is_refused():
    with pytest.raises(ValueError, match="resize_mode and channels"):
        Preparation.from_json({"height": 28, "width": 28, "channels": 1})


# Orientation


UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
"""EXIF 2.32: orientation -> upright [height, width, channels] from what is stored."""


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_exif_orientation_is_applied_and_the_upright_size_is_known_before_decoding(
    orientation, file_format, monkeypatch
):
    image, exif = Image.fromarray(noise(16, 24, 3)), Image.Exif()
    exif[ORIENTATION] = orientation
    content = encoded(image, file_format, exif=exif)
    stored = np.asarray(Image.open(io.BytesIO(encoded(image, file_format))))
    expected = UPRIGHT[orientation](stored)
    assert np.array_equal(as_stored(content, channels=3), expected.transpose(2, 0, 1))
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert measure(content) == expected.shape[:2]


def test_orientation_6_turns_the_left_column_into_the_top_row():
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = encoded(grey([[1, 2, 3], [4, 5, 6]]), exif=exif)
    assert as_stored(content).tolist() == [[[4, 1], [5, 2], [6, 3]]]


def test_an_orientation_outside_1_to_8_changes_nothing():
    exif = Image.Exif()
    exif[ORIENTATION] = 9
    assert as_stored(encoded(grey([[1, 2]]), exif=exif)).tolist() == [[[1, 2]]]


def test_the_orientation_of_a_photo_with_an_entry_that_cannot_be_written_again_is_applied():
    """A float where text belongs: ImageOps.exif_transpose raises AttributeError."""
    make, text_as_float = 0x010F, 11
    entries = struct.pack("<HHIfHHII", make, text_as_float, 1, 1.5, ORIENTATION, 3, 1, 6)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    content = encoded(grey([[1, 2, 3], [4, 5, 6]]), "JPEG", exif=exif)
    with pytest.raises(AttributeError):
        ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert measure(content) == (3, 2) and prepared(content, 3, 2).shape == (1, 3, 2)


def test_exif_after_the_pixels_of_a_png_is_applied():
    exif = b"II*\0" + struct.pack("<IHHHII", 8, 1, ORIENTATION, 3, 1, 3) + bytes(4)
    content = png(2, 1, 8, 0, b"\0\1\2", after=chunk(b"eXIf", exif))
    assert prepared(content, 1, 2).tolist() == [[[2, 1]]]


# Transparency


@pytest.mark.parametrize(
    ("mode", "pixel", "expected"),
    [
        ("RGBA", (0, 100, 200, 51), [204, 224, 244]),  # a fifth of the colour, four fifths of white
        ("RGBA", (9, 9, 9, 0), [255, 255, 255]),
        ("RGBA", (9, 8, 7, 255), [9, 8, 7]),
        ("LA", (100, 51), [224, 224, 224]),
    ],
)
def test_alpha_is_composited_on_white(mode, pixel, expected):
    content = encoded(Image.new(mode, (1, 1), pixel))
    assert colour(content) == expected
    assert prepared(content)[0, 0, 0] == round(np.dot([0.299, 0.587, 0.114], expected))


def test_a_transparent_neighbour_gives_white_and_not_its_hidden_colour():
    """The colour and alpha of both averaged first, and composited then, would be darker: 177."""
    image = Image.fromarray(np.array([[[200, 200, 200, 255], [0, 0, 0, 0]]], np.uint8))
    assert prepared(encoded(image)).tolist() == [[[228]]]  # (200 + 255) / 2


@pytest.mark.parametrize("transparency", [1, b"\xff\x00", b"\xff\x33"], ids=["one entry", "table", "half"])
def test_a_palettes_transparency_counts(transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([250, 0, 10, 0, 100, 200])
    image.putpixel((1, 0), 1)
    result = as_stored(encoded(image, transparency=transparency), channels=3)
    assert result[:, 0, 0].tolist() == [250, 0, 10]
    assert result[:, 0, 1].tolist() == ([204, 224, 244] if transparency == b"\xff\x33" else [255, 255, 255])


@pytest.mark.parametrize(("mode", "transparency"), [("L", 7), ("RGB", (7, 8, 9))])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_becomes_white(mode, transparency, channels):
    image = Image.new(mode, (1, 1), transparency)
    assert as_stored(encoded(image), channels).max() < 10
    assert as_stored(encoded(image, transparency=transparency), channels).min() == 255


def test_a_transparent_colour_of_16_bit_grey_becomes_white():
    rows = b"\0" + struct.pack(">HH", 2570, 2571)
    content = png(2, 1, 16, 0, rows, before=chunk(b"tRNS", struct.pack(">H", 2570)))
    assert as_stored(content).tolist() == [[[255, 10]]]


# Colour and depth


def test_a_palette_image_is_seen_in_its_colours():
    image = Image.new("P", (1, 1))
    image.putpalette([10, 20, 30])
    assert colour(encoded(image)) == [10, 20, 30]
    assert as_stored(encoded(image)).tolist() == [[[18]]]  # 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb_by_pillows_conversion(file_format):
    content = encoded(Image.new("CMYK", (8, 8), (40, 90, 160, 20)), file_format)
    image = Image.open(io.BytesIO(content))
    assert image.mode == "CMYK"
    assert colour(content) == list(image.convert("RGB").getpixel((0, 0)))


@pytest.mark.skipif(not features.check("littlecms2"), reason="Pillow converts LAB with LittleCMS")
def test_lab_becomes_rgb():
    white = Image.new("LAB", (1, 1), (255, 128, 128))  # L* = 100, a* = b* = 0
    assert min(colour(encoded(white, "TIFF"))) > 250


def test_a_cmyk_jpeg_with_no_ink_is_white():
    assert colour(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")) == [255, 255, 255]


def test_grey_is_the_luma_of_itu_r_601_2():
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))
    assert as_stored(encoded(image)).tolist() == [[[76, 150, 29]]]


def test_grey_is_repeated_for_three_channels():
    assert as_stored(encoded(grey([[7, 200]])), channels=3).tolist() == [[[7, 200]]] * 3


def test_one_bit_becomes_0_or_255_and_takes_part_in_resampling():
    content = encoded(grey([[False, True]], bool))
    assert as_stored(content).tolist() == [[[0, 255]]]
    assert prepared(content).tolist() == [[[128]]]


def test_16_bit_grey_is_divided_by_257_and_rounded_to_the_nearest():
    """Pillow's own conversion to 8 bits clips at 255 or, by version, drops the low byte."""
    values = np.array([[0, 128, 129, 255, 256, 385, 386, 32767, 32768, 65406, 65407, 65535]], np.uint16)
    expected = [[[0, 0, 1, 1, 1, 1, 2, 127, 128, 254, 255, 255]]]  # a step lies between 257 k + 128 and 257 k + 129
    for content in (
        encoded(Image.fromarray(values)),
        encoded(Image.fromarray(values), "TIFF"),
        b"P5 12 1 65535\n" + values.astype(">u2").tobytes(),
    ):
        assert as_stored(content).tolist() == expected


def test_all_65536_values_of_16_bits_are_rounded_to_the_nearest():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(as_stored(encoded(Image.fromarray(values)))[0], np.floor(values / 257 + 0.5))


def tiff(*entries):
    """A big-endian TIFF, which Pillow does not write: one 16-bit pixel, 258, and further entries of its directory."""
    fields = [(256, 1), (257, 1), (258, 16), (262, 1), (273, 8), (279, 2)]  # width, height, depth, black is 0, strip
    directory = b"".join([*(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in fields), *entries])
    return b"MM" + struct.pack(">HIHH", 42, 10, 258, len(directory) // 12) + directory + bytes(4)


def test_16_bits_in_the_other_byte_order_are_the_same():
    content = tiff()
    assert Image.open(io.BytesIO(content)).mode == "I;16B"
    assert as_stored(content).tolist() == [[[1]]]  # the bytes swapped, 513 would be 2


def test_32_bit_integers_are_read_as_16_bits_and_refused_where_they_do_not_fit():
    assert as_stored(encoded(grey([[0, 65535]], np.int32), "TIFF")).tolist() == [[[0, 255]]]
    for value in (-1, 65536):
        assert "8 or 16 bits" in refusal(encoded(grey([[0, value]], np.int32), "TIFF"))


def test_floating_point_pixels_are_refused():
    assert "8 or 16 bits" in refusal(encoded(grey([[0.5]], np.float32), "TIFF"))


def test_an_icc_profile_is_ignored():
    """Even a damaged one, which cannot be applied."""
    image = Image.new("RGB", (1, 1), (10, 200, 30))
    assert colour(encoded(image, icc_profile=b"profile")) == [10, 200, 30]


# Frames


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_frame_is_taken(file_format):
    frames = [Image.new("RGB", (4, 4), tint) for tint in ("red", "blue", "lime")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(content)).n_frames == 3
    assert colour(content) == [255, 0, 0]


# Size

RAMP = [[8 * column for column in range(8)]] * 4
"""4 x 8, halved below: a pixel is made of four with 1, 3, 3 and 1 eighths, at the image's edge of three."""


@pytest.mark.parametrize("resize_mode", module.RESIZE_MODES)
def test_an_image_that_fits_keeps_every_pixel(resize_mode):
    pixels = noise(7, 5, 3)
    result = prepared(encoded(Image.fromarray(pixels)), 7, 5, 3, resize_mode)
    assert np.array_equal(result, pixels.transpose(2, 0, 1))


def test_halving_weights_a_pixels_neighbourhood_as_a_triangle_does():
    """Antialiased: four pixels with 1, 3, 3 and 1 eighths. Without antialiasing it would be the middle two: 0."""
    assert prepared(encoded(grey([[9, 200, 0, 0, 200, 9]])), 1, 3)[0, 0, 1] == 50


@pytest.mark.parametrize("resize_mode", module.RESIZE_MODES)
def test_a_large_reduction_is_one_resize_of_the_whole_image(resize_mode):
    """Neither `draft`, which lets a JPEG be decoded at a smaller size, nor `reducing_gap`, which averages first."""
    content = encoded(Image.fromarray(noise(128, 128, 3)), "JPEG")
    expected = Image.open(io.BytesIO(content)).convert("RGB").resize((5, 5), Image.Resampling.BILINEAR)
    assert np.array_equal(prepared(content, 5, 5, 3, resize_mode), np.asarray(expected).transpose(2, 0, 1))


def test_squash_ignores_the_aspect_ratio():
    # Rows stay as they are; the outer columns are (3 * 0 + 3 * 8 + 16) / 7 and (40 + 3 * 48 + 3 * 56) / 7.
    assert prepared(encoded(grey(RAMP)), 4, 4).tolist() == [[[6, 20, 36, 50]] * 4]
    assert prepared(encoded(Image.new("L", (4, 1), 9)), 3, 2).tolist() == [[[9, 9]] * 3]


def test_crop_takes_the_middle_of_the_longer_side():
    pixels = noise(3, 9)
    assert np.array_equal(prepared(encoded(Image.fromarray(pixels)), 3, 3, 1, "crop")[0], pixels[:, 3:6])
    assert np.array_equal(prepared(encoded(Image.fromarray(pixels.T)), 3, 3, 1, "crop")[0], pixels.T[3:6])


def test_crop_takes_halves_of_pixels_where_the_middle_lies_between_two():
    # 2 x 3 to 2 x 2: from 0.5 to 2.5, so each pixel is the mean of two neighbours.
    assert prepared(encoded(grey([[0, 100, 200]] * 2)), 2, 2, 1, "crop").tolist() == [[[50, 150]] * 2]


def test_crop_scales_the_middle_of_a_larger_image():
    # Columns 2 to 5. Their neighbours count too, as if the whole image had been resized and then cropped.
    assert prepared(encoded(grey(RAMP)), 2, 2, 1, "crop").tolist() == [[[20, 36]] * 2]


def test_pad_centres_the_whole_image_on_black():
    content = encoded(Image.new("L", (4, 2), 200))
    assert prepared(content, 4, 4, 1, "pad")[0, :, 0].tolist() == [0, 200, 200, 0]
    assert prepared(content, 2, 2, 1, "pad")[0].tolist() == [[200, 200], [0, 0]]  # the odd row is at the bottom
    assert prepared(content, 2, 7, 3, "pad")[2, 0].tolist() == [0, 200, 200, 200, 200, 0, 0]  # or at the right


def test_pad_scales_the_whole_of_a_larger_image():
    black = [0, 0, 0, 0]
    assert prepared(encoded(grey(RAMP)), 4, 4, 1, "pad").tolist() == [[black, [6, 20, 36, 50], [6, 20, 36, 50], black]]


@pytest.mark.parametrize(("height", "rows"), [(1, 1), (24, 2), (25, 3), (100, 10)])
def test_pad_rounds_the_shorter_side_half_up_and_keeps_one_pixel_at_least(height, rows):
    result = prepared(encoded(Image.new("L", (100, height), 255)), 10, 10, 1, "pad")
    assert np.count_nonzero(result[0, :, 0]) == rows


def test_enlarging_keeps_the_ends_of_the_range_in_every_mode():
    content = encoded(grey([[0, 255], [0, 255]]))
    for resize_mode in module.RESIZE_MODES:
        assert prepared(content, 8, 8, 1, resize_mode)[0, 0].tolist() == [0, 0, 32, 96, 159, 223, 255, 255]


# Refusals


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("tolerant", [False, True])
def test_a_truncated_file_is_refused_and_so_is_every_file_where_pillow_was_told_to_fill_them_up(
    file_format, tolerant, monkeypatch
):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    content = encoded(Image.fromarray(noise(40, 40, 3)), file_format)
    assert ("LOAD_TRUNCATED_IMAGES to False" in refusal(content[: len(content) // 2])) is tolerant


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_damage_anywhere_gives_an_image_or_one_line_and_no_other_error(file_format):
    content = encoded(Image.fromarray(noise(8, 8, 3)), file_format)
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content)
        for place in random.integers(0, min(len(content), 200), 3):
            damaged[place] = random.integers(256)
        try:
            prepared(bytes(damaged))
        except ImageError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize(
    "error",
    [
        OSError("broken data stream"),
        SyntaxError("broken\nPNG\tfile"),
        struct.error("unpack requires a buffer of 4 bytes"),
        zlib.error("Error -3"),
        EOFError(),
        MemoryError(),
        KeyError(258),
        ValueError("long " * 1000),
        Image.DecompressionBombError("pixels"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises_becomes_one_short_line(error, monkeypatch):
    def load(image):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert refusal(encoded(Image.new("L", (1, 1)), "BMP")).startswith("cannot be decoded: ")


def test_more_pixels_than_the_limit_are_refused_from_the_header(monkeypatch):
    bomb = png(50_000, 50_000, 8, 0, b"")
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    for limit in (Image.MAX_IMAGE_PIXELS, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert "pixels" in refusal(bomb)
        with pytest.raises(ImageError, match="pixels"):
            measure(bomb)


def test_the_limit_itself_is_allowed_without_a_warning():
    assert 2 * Image.MAX_IMAGE_PIXELS == MAX_PIXELS
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert measure(png(MAX_PIXELS // 10, 10, 8, 0, b"")) == (10, MAX_PIXELS // 10)
        with pytest.raises(ImageError):
            measure(png(MAX_PIXELS // 10 + 1, 10, 8, 0, b""))
    assert caught == []


def test_what_pillow_only_warns_of_is_no_reason_to_refuse_an_image():
    """Warnings are errors in these tests. Here, text of 60,000 bytes in a file of 100."""
    content = tiff(struct.pack(">HHII", 0x8298, 2, 60_000, 8))
    assert measure(content) == (1, 1) and prepared(content).tolist() == [[[1]]]


def test_threads_leave_the_warning_filters_as_they_were(monkeypatch):
    def slowly(*args, _open=Image.open, **options):
        time.sleep(0.01)
        return _open(*args, **options)

    monkeypatch.setattr(Image, "open", slowly)
    content, filters = encoded(grey([[1]])), warnings.filters[:]
    threads = [threading.Thread(target=measure, args=(content,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == filters


def test_an_image_without_pixels_is_refused():
    for width, height in ((0, 1), (1, 0), (0, 0)):
        refusal(png(width, height, 8, 0, b""))


def test_random_bytes_named_jpg_are_refused_without_their_path(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\x93" + noise(100, 10).tobytes())
    message = refusal(path)
    assert "not an image" in message and "photo" not in message and "object" not in message


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "photo.png").touch()
    assert refusal(tmp_path / "photo.png") == "is empty"


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis"])
def test_heic_and_avif_that_pillow_cannot_read_are_refused_with_the_remedy(brand):
    message = refusal(struct.pack(">I", 24) + b"ftyp" + brand + bytes(100))
    assert "HEIC or AVIF" in message and "convert it to JPEG or PNG" in message


def test_a_format_that_runs_another_program_is_refused_unopened():
    eps = encoded(Image.new("L", (1, 1)), "EPS")
    assert Image.open(io.BytesIO(eps)).format == "EPS"
    assert "not an image" in refusal(eps)


def test_a_file_that_cannot_be_opened_is_not_an_image_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        prepared(tmp_path / "missing.png")
    with pytest.raises(IsADirectoryError):
        measure(tmp_path)


def test_an_image_whose_orientation_comes_after_its_pixels_is_refused_where_its_size_counts():
    """`measure` has seen the header alone: 4 x 6, and 6 x 4 once it is turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4)).save(buffer, "PNG", exif=exif)
    content = buffer.getvalue()
    start = content.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(content[start : start + 4], "big")
    end = content.index(b"IEND") - 4
    late = content[:start] + content[stop:end] + content[start:stop] + content[end:]
    as_measured = Preparation(height=4, width=6, resize_mode="squash", channels=3)
    assert measure(late) == (4, 6) and prepare(late, as_measured).shape == (3, 4, 6)
    with pytest.raises(ImageError, match="is 6 x 4 once it is turned upright"):
        prepare(late, as_measured, any_size=False)
