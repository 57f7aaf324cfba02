"""`export/predict/` on MNIST: photographs, the command, hostile files, and that it stands alone."""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import venv
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_styles import FIRST, jpeg, png
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from export import predict
from export.predict import PredictError, Predictor

pytest_plugins = ["export_fixtures"]

ROOT = Path(__file__).resolve().parents[2]


def readable(predictor: Predictor, sample_digits, count: int) -> list[tuple[np.ndarray, int]]:
    """The first `count` test digits that the net reads right when they are given as they are."""
    images, labels = sample_digits
    said = predictor.predict(images).argmax(1)
    return [(images[i], int(labels[i])) for i in np.flatnonzero(said == labels)[:count]]


@pytest.mark.parametrize("style", FIRST, ids=lambda style: style.__name__)
def test_a_photographed_digit_is_still_read(style, predictor: Predictor, sample_digits) -> None:
    draw = np.random.default_rng(3)
    known = readable(predictor, sample_digits, 40)
    right = sum(predictor.read(style(image, draw)).digit == label for image, label in known)
    assert len(known) == 40
    assert right >= 39  # 97 of 100, rounded up


def test_white_on_black_of_28_by_28_is_taken_as_it_is(sample_digits) -> None:
    for image in sample_digits[0]:
        pixels, warnings = predict.prepare_digit(Image.fromarray(image))
        assert (pixels == image).all()
        assert warnings == []


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16"])
def test_every_mode_of_an_image_is_read(mode: str, predictor: Predictor, sample_digits) -> None:
    image, label = readable(predictor, sample_digits, 1)[0]
    if mode == "I;16":
        there = Image.fromarray(image.astype(np.uint16) * 257)
        assert there.mode == mode
    else:
        there = Image.fromarray(image).convert(mode)
    assert predictor.read(there).digit == label


def test_a_turned_photograph_is_turned_back(predictor: Predictor, sample_digits) -> None:
    image, label = readable(predictor, sample_digits, 1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to show"
    buffer = io.BytesIO()
    Image.fromarray(np.rot90(np.pad(image, 28))).save(buffer, "JPEG", exif=exif)
    assert predictor.read(buffer.getvalue()).digit == label


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("size", [(28, 28), (300, 200), (1, 1), (1, 500)])
def test_blank_paper_is_said_to_be_blank(value: int, size: tuple[int, int], predictor: Predictor) -> None:
    assert predictor.read(Image.new("L", size, value)).warnings == ["blank: no ink found"]


def test_noise_is_no_ink(predictor: Predictor) -> None:
    noise = np.random.default_rng(0).normal(200, 10, (240, 320)).clip(0, 255).astype(np.uint8)
    assert predictor.read(png(Image.fromarray(noise))).warnings == ["blank: no ink found"]


def test_several_digits_are_warned_of(predictor: Predictor, sample_digits) -> None:
    images, _ = sample_digits
    page = np.full((60, 160), 255, np.uint8)
    page[16:44, 16:44] -= images[0]
    page[16:44, 100:128] -= images[1]
    assert predictor.read(Image.fromarray(page)).warnings == ["several blobs: the largest was read"]


def test_both_kinds_of_file_answer_alike(exported: Path, sample_digits) -> None:
    images, _ = sample_digits
    answers = [Predictor(exported / name).predict(images) for name in ("cnn.onnx", "cnn.pixels.onnx")]
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-6)


# The command


@pytest.fixture
def folder(tmp_path: Path, sample_digits) -> Path:
    images, _ = sample_digits
    for index in range(5):
        Image.fromarray(images[index]).save(tmp_path / f"{index}.png")
    return tmp_path


def test_json_has_a_fixed_schema_and_keeps_the_order(exported: Path, folder: Path, capsys) -> None:
    (folder / "2.png").write_bytes(b"no image")
    assert (
        predict.main([str(exported / "cnn.pixels.onnx"), str(folder), "--json", "--top", "3", "--batch-size", "2"]) == 2
    )
    out, err = capsys.readouterr()
    entries = [json.loads(line) for line in out.splitlines()]
    keys = {"path", "label", "index", "digit", "probability", "unsure", "top", "warnings", "error"}
    assert all(entry.keys() == keys for entry in entries)
    assert [Path(entry["path"]).name for entry in entries] == [f"{index}.png" for index in range(5)]
    assert [entry["digit"] is None for entry in entries] == [False, False, True, False, False]
    assert err.splitlines() == [f"distmnist: {folder / '2.png'} is not a PNG or JPEG image"]
    for entry in entries:
        if entry["error"] is None:
            assert len(entry["top"]) == 3
            assert entry["top"][0] == {key: entry[key] for key in ("digit", "label", "index", "probability")}
            assert entry["label"] == str(entry["digit"])


def test_one_line_an_image_and_unsure_below_the_limit(exported: Path, folder: Path, capsys) -> None:
    arguments = [str(exported / "cnn.pixels.onnx"), str(folder / "0.png")]
    assert predict.main(arguments) == 0
    path, digit, probability = capsys.readouterr().out.strip().split("\t")
    assert (path, digit.isdigit()) == (arguments[1], True)
    assert predict.main([*arguments, "--min-probability", "1"]) == 0
    assert capsys.readouterr().out.split("\t")[1] == "unsure" or float(probability) == 1.0


def test_show_draws_what_the_net_sees(exported: Path, folder: Path, capsys) -> None:
    assert predict.main([str(exported / "mlp.onnx"), str(folder / "0.png"), "--show"]) == 0
    drawn = capsys.readouterr().err.splitlines()
    assert len(drawn) == 28
    assert any("@" in row for row in drawn)


def test_standard_input_is_an_image(exported: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "export.predict", str(exported / "cnn.pixels.onnx"), "-"]
    done = subprocess.run(command, input=(folder / "0.png").read_bytes(), capture_output=True, cwd=ROOT, check=True)
    assert done.stdout.startswith(b"-\t")


@pytest.mark.parametrize(
    "wrong",
    [["--top", "0"], ["--top", "11"], ["--batch-size", "0"], ["--threads", "0"], ["--min-probability", "2"], ["--jso"]],
)
def test_wrong_options_are_one_line_and_2(wrong: list[str], exported: Path, folder: Path, capsys) -> None:
    assert predict.main([str(exported / "cnn.pixels.onnx"), str(folder / "0.png"), *wrong]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# Hostile images


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge() -> bytes:
    """A PNG of a few hundred bytes that unpacks to 10,000 megapixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("L", (28, 28), value) for value in (0, 90, 200)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (28, 28)).save(buffer, "GIF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x00" * 1000, "is not a PNG or JPEG image"),
        (gif(), "is not a PNG or JPEG image"),
        (png(Image.effect_noise((200, 200), 90))[:5000], "is damaged"),
        (jpeg(Image.effect_noise((200, 200), 90))[:3000], "is damaged"),
        (huge(), "has more than 64,000,000 pixels"),
        (animated(), "is animated (3 frames)"),
        (png(Image.new("1", (9000, 8000))), "the limit is 64,000,000"),
    ],
)
def test_a_hostile_image_is_one_line_and_does_not_stop_the_others(
    content: bytes, message: str, exported: Path, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    (folder / "1.png").write_bytes(content)
    assert predict.main([str(exported / "mlp.pixels.onnx"), str(folder)]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    (line,) = err.splitlines()
    assert line.startswith(f"distmnist: {folder / '1.png'} ")
    assert message in line


# Hostile models


def model(*nodes: onnx.NodeProto, opsets=(("", 18),), **graph) -> onnx.ModelProto:
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("input", [1, 28, 28]), ("logits", [10]))
    ]
    made = helper.make_graph(
        list(nodes) or [helper.make_node("Relu", ["input"], ["logits"])], "g", [ends[0]], [ends[1]], **graph
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid(*opset) for opset in opsets], ir_version=8)


def external() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, "/etc/passwd")
    return model(initializer=[weight])


def hidden_graph() -> onnx.ModelProto:
    made = model()
    made.graph.node[0].attribute.append(helper.make_attribute("body", model().graph))
    return made


def with_function() -> onnx.ModelProto:
    made = model()
    made.functions.append(helper.make_function("d", "f", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], []))
    return made


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (model(helper.make_node("Loop", ["input"], ["logits"])), "the operator Loop"),
        (model(helper.make_node("RandomNormalLike", ["input"], ["logits"])), "the operator RandomNormalLike"),
        (model(helper.make_node("Relu", ["input"], ["logits"], domain="evil")), "the operator evil.Relu"),
        (model(opsets=[("", 18), ("com.microsoft", 1)]), "opset com.microsoft 1"),
        (model(opsets=[("", 7)]), "opset ai.onnx 7"),
        (external(), "external data"),
        (hidden_graph(), "hides a graph"),
        (with_function(), "functions"),
        (model(), "cannot be loaded|other inputs and outputs"),
        (model(helper.make_node("Conv", ["input", "missing"], ["logits"])), "cannot be loaded"),
    ],
)
def test_a_hostile_model_is_one_line_and_2(made: onnx.ModelProto, message: str, folder: Path, capsys) -> None:
    path = folder / "evil.onnx"
    path.write_bytes(made.SerializeToString())
    assert predict.main([str(path), str(folder / "0.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert any(part in line for part in message.split("|")), line


@pytest.mark.parametrize("content", [b"", b"\xff" * 200, b"PK\x03\x04 no model", b"\x80" * 50])
def test_what_is_no_model_is_one_line_and_2(content: bytes, folder: Path, capsys) -> None:
    (folder / "x.onnx").write_bytes(content)
    assert predict.main([str(folder / "x.onnx"), str(folder / "0.png")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_model_cut_short_anywhere_is_refused(exported: Path) -> None:
    content = (exported / "mlp.pixels.onnx").read_bytes()
    for size in range(1, len(content), len(content) // 23):
        with pytest.raises(PredictError):
            Predictor(content[:size])


def test_a_model_with_random_bytes_changed_is_refused_or_still_a_model(exported: Path) -> None:
    """No other exception than PredictError comes out, whatever the bytes."""
    content = (exported / "mlp.pixels.onnx").read_bytes()
    draw = np.random.default_rng(0)
    structure = [*range(200), *range(len(content) - 4000, len(content))]
    for _ in range(400):
        spoilt = bytearray(content)
        for place in draw.choice(structure, 3):
            spoilt[place] = draw.integers(256)
        try:
            predict.check_model(bytes(spoilt))
        except PredictError as error:
            assert len(str(error).splitlines()) == 1


def test_in_a_deploy_folder_the_manifest_decides(deployed: Path, folder: Path, capsys) -> None:
    image = str(folder / "0.png")
    shutil.copy(deployed / "mlp.onnx", deployed / "stranger.onnx")
    assert predict.main([str(deployed / "stranger.onnx"), image]) == 2
    assert "is not listed in" in capsys.readouterr().err
    shutil.copy(deployed / "cnn.onnx", deployed / "mlp.onnx")
    assert predict.main([str(deployed / "mlp.onnx"), image]) == 2
    assert "is not the file that" in capsys.readouterr().err
    assert predict.main([str(deployed / "cnn.pixels.onnx"), image]) == 0


# Standing alone


def test_neither_torch_nor_torchvision_nor_onnx_is_loaded(exported: Path, folder: Path) -> None:
    program = (
        "import sys; from export import predict; code = predict.main(sys.argv[1:]);"
        "assert not {'torch', 'torchvision', 'onnx', 'distmnist'} & set(sys.modules); sys.exit(code)"
    )
    arguments = [str(exported / "cnn.pixels.onnx"), str(folder / "0.png")]
    subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_the_first_answer_needs_little_memory(exported: Path, folder: Path) -> None:
    """150 MB at the peak, twice what was measured; `benchmarks/inference.py` measures how soon the answer comes."""
    program = (
        "import runpy, sys\nsys.argv[0] = 'predict.py'\n"
        "try: runpy.run_path(sys.argv.pop(1), run_name='__main__')\nexcept SystemExit as end: assert not end.code\n"
        "print(next(row for row in open('/proc/self/status') if row.startswith('VmHWM')).split()[1])"
    )
    arguments = [str(exported / "predict.py"), str(exported / "cnn.pixels.onnx"), str(folder / "0.png")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True)
    assert int(done.stdout.splitlines()[-1]) / 1024 < 150


@pytest.mark.skipif(
    "DISTMNIST_TEST_INSTALL" not in os.environ, reason="installs packages: DISTMNIST_TEST_INSTALL=1 asks for it"
)
def test_the_deploy_folder_needs_its_three_requirements_only(deployed: Path, folder: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", deployed / "requirements.txt"], check=True)
    command = [python, deployed / "predict.py", deployed / "cnn.pixels.onnx", folder / "0.png", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert json.loads(done.stdout)["error"] is None
