"""`export/predict/` on models of any images: preparation, output, untrusted metadata, and that the folder stands alone.

The models are tiny and untrained: their answer is the channel, or the brightness, that an image has most of.
"""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import PIL
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from distmnist.data import folder as folder_data
from distmnist.data import prepare as training
from distmnist.data.dataset import normalise
from export import predict, predict_folder
from export.predict import PredictError, Predictor, images, signatures
from export.predict.description import read_description
from export.predict.model_file import read_metadata

FIRST_EDITION = Path(__file__).parents[1] / "fixtures/first_edition/export"
COLOURS = ("red", "green", "blue")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
TYPES = {"tensor(float)": TensorProto.FLOAT, "tensor(uint8)": TensorProto.UINT8, "tensor(int64)": TensorProto.INT64}


def facts(shape=(3, 8, 6), class_names=COLOURS, **other) -> dict[str, object]:
    """What a checkpoint says of a data set: distmnist.data.dataset.DatasetFacts."""
    mean, std = (MEAN, STD) if shape[0] == 3 else ((0.5,), (0.25,))
    described = {"name": "own", "train": 9, "test": 3, "shape": list(shape), "class_names": list(class_names)}
    return described | {"mean": mean, "std": std, "preparation": None, "decoder": None} | other


def build(kind: str = "pixels", dataset: object = None, metadata: dict[str, str] | None = None) -> bytes:
    """An ONNX file whose logits are the means of an image's channels; in grey, the brightness and the darkness."""
    dataset = facts() if dataset is None else dataset
    known = isinstance(dataset, dict) and "shape" in dataset
    shape, classes = (dataset["shape"], len(dataset["class_names"])) if known else ((3, 8, 6), 3)
    inputs, outputs = signatures(tuple(shape), classes)[kind]
    weight = np.zeros((shape[0], classes), np.float32)
    weight[:, :2] = [[1, -1]]
    if shape[0] == 3:
        weight = np.eye(3, classes, dtype=np.float32)
    nodes, planes = [], "input"
    if kind == "pixels":
        arrange = ("Transpose", {"perm": [0, 3, 1, 2]}) if shape[0] == 3 else ("Unsqueeze", {})
        nodes = [
            helper.make_node(arrange[0], ["pixels", *(["axis"] if shape[0] == 1 else [])], ["planes"], **arrange[1]),
            helper.make_node("Cast", ["planes"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["floats", "scale"], ["scaled"]),
        ]
        planes = "scaled"
    nodes += [
        helper.make_node("ReduceMean", [planes, "sides"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weight"], ["logits"]),
    ]
    if kind == "pixels":
        nodes += [
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        ]
    ends = [[helper.make_tensor_value_info(n, TYPES[type_], size) for n, size, type_ in s] for s in (inputs, outputs)]
    values = {"weight": weight, "sides": np.array([2, 3]), "scale": np.float32(255), "axis": np.array([1])}
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(np.array(v), n) for n, v in values.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"dataset": json.dumps(dataset)} if metadata is None else metadata)
    return model.SerializeToString()


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "colours.onnx").write_bytes(build())
    return str(tmp_path / "colours.onnx")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three images that are red, green and blue, and what is not to be read."""
    target = tmp_path / "pictures"
    target.mkdir()
    for index, colour in enumerate(COLOURS):
        Image.new("RGB", (20, 10), colour).save(target / f"{index}.{('png', 'webp', 'BMP')[index]}")
    (target / "._1.png").write_bytes(b"what macOS keeps beside it")
    (target / "labels.txt").write_text("red")
    return target


# The preparation


def awkward_files(target: Path) -> list[Path]:
    """Images that are turned, transparent, of a palette, of 16 and 1 bits, and of another size."""
    draw, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees to show"
    noise = draw.integers(0, 256, (31, 23, 4), dtype=np.uint8)
    colour = Image.fromarray(noise[..., :3])
    deep = Image.fromarray(draw.integers(0, 65536, (17, 40), dtype=np.uint16))
    target.mkdir()
    colour.save(target / "turned.jpg", exif=exif)
    Image.fromarray(noise).save(target / "alpha.png")
    colour.quantize(16).save(target / "palette.gif")
    deep.save(target / "deep.png")
    deep.save(target / "deep.tiff")
    colour.convert("1").save(target / "bits.png")
    colour.resize((400, 7)).save(target / "wide.webp")
    colour.convert("CMYK").save(target / "print.jpg")
    return sorted(target.iterdir())


SETTINGS = [
    {"height": 8, "width": 6, "resize_mode": "squash", "channels": 3},
    {"height": 12, "width": 12, "resize_mode": "crop", "channels": 1},
    {"height": 9, "width": 14, "resize_mode": "pad", "channels": 3},
]

DEPLOYED = """
import json, sys
blocked = {"torch", "torchvision", "distmnist", "export", "onnx", "msgspec"}
sys.modules |= dict.fromkeys(blocked)
sys.path.insert(0, sys.argv[1])
import numpy as np
import predict
from predict import Predictor
models, files = json.loads(sys.argv[2])
found = {}
for model in models:
    predictor = Predictor(model)
    for file in files:
        reading = predictor.read(file)
        found[f"{model} {file}"] = reading.pixels
np.savez(sys.argv[3], **found)
assert predict.main([models[0], *files]) == 0
"""


def test_the_deployed_folder_prepares_bit_for_bit_as_training_without_torch_and_distmnist(tmp_path: Path) -> None:
    predict_folder.write(tmp_path)
    files, models = awkward_files(tmp_path / "files"), []
    for number, setting in enumerate(SETTINGS):
        shape = (setting["channels"], setting["height"], setting["width"])
        models.append(tmp_path / f"{number}.onnx")
        names = COLOURS if shape[0] == 3 else ("light", "dark")
        models[-1].write_bytes(build(dataset=facts(shape, names, preparation=setting)))
    everything = json.dumps([list(map(str, models)), list(map(str, files))])
    done = subprocess.run(
        [sys.executable, "-c", DEPLOYED, str(tmp_path), everything, str(tmp_path / "found.npz")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(files)
    with np.load(tmp_path / "found.npz") as found:
        for model, setting in zip(models, SETTINGS, strict=True):
            for file in files:
                expected = training.prepare(file, training.Preparation.from_json(setting))
                planes = found[f"{model} {file}"]
                planes = planes[None] if planes.ndim == 2 else planes.transpose(2, 0, 1)
                assert planes.dtype == np.uint8 and np.array_equal(planes, expected), (setting, file)


def test_a_folder_of_any_name_runs_and_its_modules_hide_no_others(tmp_path: Path, model: str, pictures: Path) -> None:
    predict_folder.write(tmp_path)
    folder = (tmp_path / "predict").rename(tmp_path / "json v1.5")
    (folder / "csv.py").write_text("raise SystemExit('not this one')")
    done = subprocess.run([sys.executable, folder, model, pictures, "--csv"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert [row["label"] for row in csv.DictReader(io.StringIO(done.stdout))] == list(COLOURS)


def test_the_preparation_has_one_implementation_in_the_source_tree_and_deployed(tmp_path: Path) -> None:
    predict_folder.write(tmp_path)
    assert images.prepare_module() is training
    assert (tmp_path / "predict/prepare.py").read_bytes() == Path(training.__file__).read_bytes()


def test_a_pillow_image_a_path_and_a_files_content_are_prepared_alike(tmp_path: Path) -> None:
    predictor = Predictor(build())
    for path in awkward_files(tmp_path / "files"):
        expected, _ = predictor.prepare(path)
        assert np.array_equal(predictor.prepare(path.read_bytes())[0], expected)
        if path.suffix != ".gif":  # Pillow keeps no more than the palette's colours in use
            with Image.open(path) as image:
                assert np.array_equal(predictor.prepare(image)[0], expected), path


def test_without_a_preparation_images_are_squashed_to_the_models_size(tmp_path: Path) -> None:
    predictor = Predictor(build(dataset=facts((1, 5, 9), ("light", "dark"), name="fashion-mnist")))
    assert (predictor.shape, predictor.class_names, predictor.is_mnist) == ((1, 5, 9), ("light", "dark"), False)
    assert predictor.preparation == images.prepare_module().Preparation(
        height=5, width=9, resize_mode="squash", channels=1
    )
    assert predictor.read(Image.new("L", (100, 100), 255)).label == "light"


@pytest.mark.parametrize("shape", [(3, 8, 6), (1, 8, 6)])
def test_logits_files_are_given_images_normalised_by_channel_as_in_training(shape) -> None:
    import torch

    names = COLOURS if shape[0] == 3 else ("light", "dark")
    predictor = Predictor(build("logits", facts(shape, names)))
    fed = []
    predictor.run = lambda output, feed: fed.append(feed["input"]) or np.zeros((2, len(names)), np.float32)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *predictor.pixel_shape), dtype=np.uint8)
    predictor.predict(pixels)
    planes = torch.from_numpy(pixels).reshape(2, *shape) if shape[0] == 1 else torch.from_numpy(pixels).movedim(3, 1)
    mean, std = (torch.tensor(facts(shape)[key])[:, None, None] for key in ("mean", "std"))
    assert np.array_equal(fed[0], normalise(planes, mean, std).numpy())
    with pytest.raises(PredictError, match="pixels must be uint8"):
        predictor.predict(pixels[:, :-1])


# The output


def run(*arguments: object) -> int:
    return predict.main([str(argument) for argument in arguments])


def test_a_line_is_path_label_and_probability(model: str, pictures: Path, capsys) -> None:
    assert run(model, pictures, "--top", 2) == 0
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert [(Path(row[0]).name, row[1]) for row in rows] == [("0.png", "red"), ("1.webp", "green"), ("2.BMP", "blue")]
    assert all(len(row) == 5 and float(row[2]) > float(row[4]) for row in rows)
    assert err == ""


def test_json_names_label_and_index_and_no_digit(model: str, pictures: Path, capsys) -> None:
    (pictures / "1.webp").write_bytes(b"no image")
    assert run(model, pictures, "--json", "--top", 3) == 2
    first, broken, last = map(json.loads, capsys.readouterr().out.splitlines())
    keys = ["path", "label", "index", "probability", "unsure", "top", "warnings", "error"]
    assert list(first) == list(broken) == list(last) == keys
    assert (last["label"], last["index"], last["unsure"], last["error"]) == ("blue", 2, False, None)
    assert last["top"][0] == {key: last[key] for key in ("label", "index", "probability")}
    assert sum(entry["probability"] for entry in last["top"]) == pytest.approx(1)
    assert broken["label"] is broken["index"] is broken["probability"] is None
    assert "not an image in a supported format" in broken["error"]


NAMES = ('a\tb\nc "d", e', "../../etc/passwd", "\x1b[31m<b>red</b>\u2028\ud800")


def test_names_of_classes_never_break_a_line(tmp_path: Path, pictures: Path, capsys) -> None:
    (tmp_path / "own.onnx").write_bytes(build(dataset=facts(class_names=NAMES)))
    strange = pictures / "a\tb\n.png"
    strange.write_bytes(b"no image")
    assert run(tmp_path / "own.onnx", pictures, "--top", 3) == 2
    out, err = capsys.readouterr()
    assert [len(line.split("\t")) for line in out.split("\n")] == [7, 7, 7, 1]
    assert r"a\tb\nc" in out and "\x1b" not in out and len(err.splitlines()) == 1
    assert run(tmp_path / "own.onnx", pictures, "--csv") == 2
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["path", "label", "index", "probability", "error"]
    assert [row[1:3] for row in rows[1:4]] == [
        [r'a\tb\nc "d", e', "0"],
        [NAMES[1], "1"],
        [r"\x1b[31m<b>red</b>\u2028\ud800", "2"],
    ]
    assert rows[4][:4] == [str(pictures / r"a\tb\n.png"), "", "", ""] and rows[4][4]
    assert run(tmp_path / "own.onnx", pictures, "--json") == 2
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["label"] for answer in answers] == [*NAMES, None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--json", "--csv"], "not allowed with"),
        (["--top", "4"], "--top 4 must be 1 to 3"),
        (["--top", "0"], "--top 0 must be 1 to 3"),
        (["--show"], "--show draws grey images"),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_2(options, message, model: str, pictures: Path, capsys) -> None:
    assert run(model, pictures, *options) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and message in err


def test_a_large_grey_image_is_drawn_small(tmp_path: Path, capsys) -> None:
    (tmp_path / "grey.onnx").write_bytes(build(dataset=facts((1, 130, 200), ("light", "dark"))))
    Image.new("L", (20, 10), 255).save(tmp_path / "1.png")
    assert run(tmp_path / "grey.onnx", tmp_path / "1.png", "--show", "--min-probability", "1") == 0
    out, err = capsys.readouterr()
    assert out.split("\t")[1] == "unsure"
    assert set(err) == {"@", "\n"} and max(map(len, err.splitlines())) <= 128


def test_a_directory_is_read_by_the_suffixes_that_training_knows(tmp_path: Path, model: str, capsys) -> None:
    for suffix in re.findall(
        "[a-z0-9]+", "avif bmp gif heic heif jfif jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp"
    ):
        assert folder_data.IMAGE.search(f"x.{suffix}") and images.IMAGE_FILES.search(f"x.{suffix.upper()}"), suffix
    (tmp_path / "empty").mkdir()
    assert run(model, tmp_path / "empty") == 2
    assert "is a directory without an image file" in capsys.readouterr().err


@pytest.mark.parametrize(("decoder", "warned"), [(f"Pillow {PIL.__version__}", 0), ("Pillow 1.0", 1), (None, 0)])
def test_another_pillow_than_that_of_training_is_warned_of(decoder, warned, tmp_path: Path, pictures, capsys) -> None:
    (tmp_path / "own.onnx").write_bytes(build(dataset=facts(preparation=SETTINGS[0], decoder=decoder)))
    assert run(tmp_path / "own.onnx", pictures) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == warned and all("Pillow 1.0 did in training" in line for line in warnings)
    assert Predictor(build(dataset=facts(decoder="Pillow 1.0"))).warnings == []  # no files were decoded


# What a model says of itself


@pytest.mark.parametrize(
    "wrong",
    [
        "text",
        [],
        facts(name=3),
        facts(name=None),
        facts() | {"shape": [3, 8]},
        facts() | {"shape": [3, 8.0, 6]},
        facts() | {"shape": [True, 8, 6]},
        facts() | {"shape": [2, 8, 6]},
        facts() | {"shape": [3, 0, 6]},
        facts() | {"shape": [3, 10**9, 10**9]},
        facts() | {"shape": [3, 8, 7]},
        facts() | {"class_names": None},
        facts() | {"class_names": []},
        facts() | {"class_names": "abc"},
        facts() | {"class_names": ["a", "b", 3]},
        facts() | {"class_names": ["a", "b", "\n" * 5000]},
        facts() | {"class_names": ["a", "b"]},
        facts(mean=[0.1]),
        facts(mean=[0.1, 0.2, float("nan")]),
        facts(mean=[0.1, 0.2, 10**400]),
        facts(std=[0.1, 0.2, 0]),
        facts(std="abc"),
        facts(decoder=["Pillow"]),
        facts(preparation="squash"),
        facts(preparation={"height": 8}),
        facts(preparation=SETTINGS[0] | {"resize_mode": "\x1b[31m\n"}),
        facts(preparation=SETTINGS[0] | {"width": 7}),
        facts(preparation=SETTINGS[0] | {"channels": True}),
    ],
)
def test_metadata_that_no_export_writes_are_one_line(wrong: object, tmp_path: Path, pictures: Path, capsys) -> None:
    (tmp_path / "evil.onnx").write_bytes(build(metadata={"dataset": json.dumps(wrong)}))
    assert run(tmp_path / "evil.onnx", pictures) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err[:-1].isprintable() and str(tmp_path / "evil.onnx") in err


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"shape": ' + "9" * 5000 + "}", "{" + " " * 2**24 + "}"])
def test_metadata_that_are_no_json_are_one_line(text: str) -> None:
    with pytest.raises(PredictError) as caught:
        Predictor(build(metadata={"dataset": text}))
    assert len(str(caught.value).splitlines()) == 1


def test_metadata_given_twice_are_refused() -> None:
    model = onnx.load_from_string(build())
    model.metadata_props.add(key="dataset", value="{}")
    with pytest.raises(PredictError, match="twice"):
        Predictor(model.SerializeToString())


def test_metadata_with_random_bytes_changed_are_refused_or_still_describe_images() -> None:
    """No other exception than PredictError comes out, whatever the bytes."""
    content = onnx.ModelProto(metadata_props=onnx.load_from_string(build()).metadata_props).SerializeToString()
    draw, refused = np.random.default_rng(0), 0
    for _ in range(2000):
        spoilt = bytearray(content)
        for place in draw.choice(len(content), 2):
            spoilt[place] = draw.integers(256)
        try:
            read_description(read_metadata(bytes(spoilt)))
        except PredictError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
    assert 0 < refused < 2000


def test_a_logits_file_must_say_its_mean_and_std() -> None:
    for missing in ("mean", "std"):
        with pytest.raises(PredictError, match="does not say its mean and std"):
            Predictor(build("logits", facts(**{missing: None})))


def test_answers_that_are_not_finite_are_refused() -> None:
    predictor = Predictor(build("logits", facts(std=[1e-300] * 3)))
    with pytest.raises(PredictError, match="not a finite number"):
        predictor.read(Image.new("RGB", (6, 8)))


@pytest.mark.parametrize("name", ["own", "emnist", "mnist\n"])
def test_only_mnist_by_name_is_read_as_digits(name: str) -> None:
    digits = tuple("0123456789")
    assert not Predictor(build(dataset=facts((1, 28, 28), digits, name=name))).is_mnist
    assert Predictor(build(dataset=facts((1, 28, 28), digits, name="mnist"))).is_mnist


def test_a_file_of_the_first_edition_reads_digits(tmp_path: Path, capsys) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "1.png")
    assert run(FIRST_EDITION / "mlp.pixels.onnx", tmp_path / "1.png", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["digit"] == answer["index"] == int(answer["label"])
    assert answer["warnings"] == ["blank: no ink found"]
