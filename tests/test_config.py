"""The options: documented, checked, resolved and written in one place."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distmnist import config, train
from distmnist.commandline import parse
from distmnist.config import (
    ACTIVATIONS,
    FIELDS,
    RunOptions,
    TrainConfig,
    from_json,
    option_flag,
    resolve,
    resolve_model,
    rules,
    to_json,
    value_type,
)
from distmnist.errors import UsageError
from distmnist.models.build import MODELS
from distmnist.recipes import RECIPES
from distmnist.training.optimizer import build_optimizer, learning_rate

NUMBERS = [name for name, field in FIELDS.items() if value_type(field) in (int, float)]
WORDS = [name for name, field in FIELDS.items() if rules(field).choices]


def options_with(name, value):
    """The options that `name` belongs to, with this value."""
    return (TrainConfig if name in TrainConfig().options() or name == "model" else RunOptions)(**{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_limits_and_a_refusal_says_them(name):
    must = rules(FIELDS[name]).must
    for wrong in [-1] if value_type(FIELDS[name]) is int else [-1.0, math.inf, math.nan]:
        with pytest.raises(UsageError) as refusal:
            options_with(name, wrong)
        assert str(refusal.value) == f"{option_flag(name)} {wrong} must {must}"
        assert must


@pytest.mark.parametrize("name", WORDS)
def test_every_word_is_one_of_its_choices_and_the_default_is_one(name):
    options_with(name, FIELDS[name].default)
    with pytest.raises(UsageError) as refusal:
        options_with(name, "unheard-of")
    choices = ", ".join(rules(FIELDS[name]).choices)
    assert str(refusal.value) == f"{option_flag(name)} unheard-of is unknown; choose from {choices}"


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("image_size", ["64", "1", "224x160"], ["0", "64x", "x64", "64x0", "-1", "64X64", "6 4", "1x2x3", ""]),
        ("mean", ["0.5", "0", "0.485,0.456,0.406", "1,2,3"], ["", "a", "0.5,", "1,2,3,4", "-1", "nan", "1e3", ".5"]),
        ("std", ["0.5", "0.229,0.224,0.225"], ["", "inf", "0.5;0.5"]),
        ("data", ["photos", "mnist"], [""]),
    ],
)
def test_a_text_with_a_form_of_its_own_is_refused_in_any_other(name, right, wrong):
    for text in right:
        options_with(name, text)
    for text in wrong:
        with pytest.raises(UsageError, match=f"^{option_flag(name)} .* must be "):
            options_with(name, text)


def test_an_empty_data_set_is_not_the_current_directory():
    with pytest.raises(UsageError, match='--data "" must be the name'):
        parse(["--data="])


def test_a_path_to_images_is_made_absolute_and_a_known_set_and_a_function_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pets:v2").mkdir()
    for typed, data in (
        ("photos", str(tmp_path / "photos")),
        ("../a.csv", str(tmp_path / "../a.csv")),
        ("~/b.npz", str(Path.home() / "b.npz")),
        ("pets:v2", str(tmp_path / "pets:v2")),
        ("package.module:function", "package.module:function"),
        ("mnist", "mnist"),
        ("cifar100", "cifar100"),
        (r"C:\photos", str(tmp_path / r"C:\photos")),
    ):
        job = parse(["--data", typed])
        assert job.common.data == job.explicit["data"] == data


def test_the_defaults_are_the_published_recipe():
    defaults = TrainConfig()
    assert (defaults.epochs, defaults.batch_size, defaults.lr, defaults.optimizer) == (5, 64, 1e-3, "adam")
    assert (defaults.activation, defaults.schedule) == ("relu", "constant")
    assert defaults.dropout == defaults.weight_decay == defaults.grad_clip == defaults.val_fraction == 0
    assert defaults.augment == defaults.label_smoothing == 0
    assert not defaults.flip and not defaults.crop and defaults.class_weights == "none"


def test_help_has_every_option_in_its_group_with_its_description_choices_and_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")  # no line is broken
    with pytest.raises(SystemExit) as leaving:
        train.main(["--help"])
    text = capsys.readouterr().out
    assert leaving.value.code == 0
    assert re.search(r"--batch-size \w+\s+GLOBAL ", text)
    for name, field in FIELDS.items():
        allowed = rules(field)
        group = text.partition(f"\n{allowed.group}:\n")[2].partition("\n\n")[0]
        (shown,) = re.findall(rf"^  {option_flag(name)}( .*(?:\n   .*)?)$", group, re.MULTILINE)
        assert allowed.help.strip() and f" {allowed.help}" in shown
        assert not allowed.choices or f"{{{','.join(allowed.choices)}}}" in shown
        if field.default not in (None, False, dataclasses.MISSING):
            assert shown.endswith(f"{allowed.help} (default: {allowed.shown or field.default})")
    assert "snapshot-steps" not in text  # an older name, still taken
    assert parse(["--snapshot-steps=7"]).run.checkpoint_steps == 7


def test_help_is_printed_by_rank_0_only(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit) as leaving:
        train.main(["--help"])
    assert leaving.value.code == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "typed",
    """--epochs 0|--epochs -1|--epochs 1.5|--epochs many|--batch-size 0|--lr 0|--lr -1|--lr nan|--lr inf|--lr
    --weight-decay -0.1|--weight-decay nan|--dropout 1|--dropout -0.1|--dropout nan|--momentum 1|--momentum nan
    --val-fraction 1|--val-fraction nan|--val-fraction -0.5|--grad-clip -1|--grad-clip nan|--seed -1|--max-steps 0
    --threads 0|--timeout 0|--timeout inf|--timeout nan|--optimizer lion|--activation sigmoid|--schedule linear
    --label-smoothing 1|--label-smoothing -0.1|--label-smoothing nan|--augment -1|--augment nan|--augment 5
    --class-weights heavy|--recipe worst|--amp fp8|--device tpu|--resume|--channels 2|--resize-mode fit
    --test-fraction 0|--test-fraction 1|--on-error ignore|--timeout 1e10|--timeout 604801|--threads 100000
    --threads 1025""".replace("\n", "|").split("|"),
)
def test_a_value_out_of_range_or_unknown_is_refused_in_one_line_that_names_the_option(typed):
    with pytest.raises(UsageError) as refusal:
        parse(typed.split())
    message = str(refusal.value)
    assert typed.split()[0] in message and "\n" not in message


@pytest.mark.parametrize("typed", ["--epoch=3", "--batch 3", "--learning-rate 1", "extra"])
def test_an_unknown_or_abbreviated_option_is_refused(typed):
    with pytest.raises(UsageError, match=re.escape(typed)):
        parse(typed.split())


def test_the_checks_hold_without_the_command_line():
    for wrong in ({"lr": math.nan}, {"epochs": 0}, {"optimizer": "lion"}):
        with pytest.raises(UsageError):
            TrainConfig(**wrong)
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lr = 1.0


WRONG = {
    int: ["5", 1.5, 5.0, True, None, [5], {}, math.nan, 10**30, object()],
    float: ["0.1", True, None, [0.1], {}, 10**400],
    bool: [1, "true", None, []],
    str: [1, True, None, ["x"], {}, "two\nlines"],
    Path: [1, True, None, ["x"], "null\0byte"],
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_a_value_of_the_wrong_type_is_refused_in_one_line_that_names_the_option(field):
    for wrong in WRONG[value_type(field)]:
        if wrong is None and field.default is None:
            continue
        for build in (
            lambda given: options_with(*next(iter(given.items()))),
            resolve,
            lambda given: resolve(from_json(given)),
        ):
            with pytest.raises(UsageError) as refusal:
                build({field.name: wrong})
            message = str(refusal.value)
            assert message.startswith(option_flag(field.name)) and "\n" not in message and len(message) < 200


def test_numbers_of_other_libraries_and_paths_as_strings_are_taken_as_the_type_that_is_declared():
    given = (
        TrainConfig(epochs=np.int64(3), lr=1),
        RunOptions(timeout=np.float32(2), threads=np.uint8(4), data_dir="here"),
    )
    values = given[0].epochs, given[0].lr, given[1].timeout, given[1].threads
    assert values == (3, 1.0, 2.0, 4) and given[1].data_dir == Path("here")
    assert [type(value) for value in values] == [int, float, float, int]
    json.dumps([to_json(dataclasses.asdict(options)) for options in given])


def test_the_limits_of_threads_and_timeout_are_said_and_can_be_used():
    with pytest.raises(UsageError, match=r"^--threads 100000 must be from 1 to 1024$"):
        RunOptions(threads=100_000)
    with pytest.raises(UsageError, match=r"^--timeout 10000000000\.0 must be above 0 and at most 604800, a week$"):
        RunOptions(timeout=1e10)
    assert (RunOptions(threads=1024).threads, RunOptions(timeout=604_800).timeout) == (1024, 604_800)


def test_defaults_give_way_to_the_recipe_and_the_recipe_to_what_was_typed(monkeypatch):
    recipes = {"reference": {}, "best": {"*": {"lr": 0.2, "epochs": 7}, "cnn": {"lr": 0.3, "dropout": 0.4}}}
    monkeypatch.setattr(config, "RECIPES", recipes)
    assert resolve({}).configs == (TrainConfig(model="mlp"), TrainConfig(model="cnn"))
    assert resolve_model({"recipe": "best"}, "mlp") == TrainConfig(model="mlp", lr=0.2, epochs=7)
    typed = {"recipe": "best", "epochs": 5}  # the default, but typed
    assert resolve_model(typed, "cnn") == TrainConfig(model="cnn", lr=0.3, dropout=0.4, epochs=5)
    job = resolve({"recipe": "best", "lr": 0.9, "model": "cnn"})
    assert job.run.recipe == "best" and job.models == ["cnn"] and job.common.lr == 0.9


@pytest.mark.parametrize("recipe", config.RECIPES)
def test_every_recipe_is_made_of_valid_options(recipe):
    for resolved, name in zip(resolve({"recipe": recipe}).configs, MODELS, strict=True):
        settings = RECIPES[recipe].get("*", {}) | RECIPES[recipe].get(name, {})
        assert resolved.model == name and {option: getattr(resolved, option) for option in settings} == settings


def test_only_what_was_typed_is_parsed_and_it_survives_json():
    typed = [
        "--model",
        "cnn",
        "--lr",
        "0.5",
        "--data-dir",
        "some/where",
        "--output",
        "run",
        "--resume",
        "--max-steps",
        "3",
        "--amp",
        "off",
    ]
    given = parse(typed).explicit
    assert given == {
        "model": "cnn",
        "lr": 0.5,
        "data_dir": Path("some/where"),
        "output": Path("run"),
        "resume": True,
        "max_steps": 3,
        "amp": "off",
    }
    assert from_json(json.loads(json.dumps(to_json(given)))) == given
    everything = dataclasses.asdict(TrainConfig()) | dataclasses.asdict(RunOptions())
    assert from_json(json.loads(json.dumps(to_json(everything)))) == everything


def test_json_of_an_older_version_is_read():
    assert from_json({"snapshot_steps": 3}) == {"checkpoint_steps": 3}


def test_json_with_an_option_of_another_version_is_refused_by_name():
    with pytest.raises(UsageError, match="warp_speed"):
        from_json({"lr": 0.1, "warp_speed": 9})


def test_the_data_directory_comes_from_the_environment_unless_typed(monkeypatch):
    assert parse([]).run.data_dir == Path("data")
    monkeypatch.setenv("DISTMNIST_DATA", "elsewhere")
    assert parse([]).run.data_dir == Path("elsewhere")
    assert parse(["--data-dir", "here"]).run.data_dir == Path("here")


def test_what_changes_the_weights_is_compared_and_what_does_not_is_left_free():
    names = TrainConfig().options().keys()
    changing = "epochs batch_size lr optimizer momentum weight_decay schedule grad_clip dropout activation val_fraction"
    changing += " augment flip crop class_weights label_smoothing fast"
    assert {*changing.split(), "seed", "max_steps", "amp", "data"} <= names
    assert not names & {"data_dir", "output", "resume", "print_fast", "threads", "timeout"}


def test_every_choice_has_an_implementation():
    parameters = [torch.nn.Parameter(torch.ones(2))]
    by_name = {name: rules(field).choices for name, field in FIELDS.items()}
    assert by_name["activation"] == ACTIVATIONS
    for name in ACTIVATIONS:
        assert getattr(torch.nn.functional, name)(torch.zeros(3)).shape == (3,)
    for name in by_name["optimizer"]:
        assert type(build_optimizer(parameters, TrainConfig(optimizer=name))).__name__.lower() == name
    for name in by_name["schedule"]:
        assert 0 <= learning_rate(TrainConfig(schedule=name), 3, 10) <= TrainConfig().lr


def test_options_are_parsed_without_importing_torch():
    code = (
        "import sys; from distmnist import train; train.parse(['--lr', '1']);"
        " print(sorted({'torch', 'numpy', 'torchvision', 'tqdm'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
