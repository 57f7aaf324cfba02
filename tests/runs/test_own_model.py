"""A model of one's own through the whole command: on any number of processes, resumed, shown, and refused where wrong.

No file of a run chooses what is imported.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from html_page import Page
from one_run import contents, figures, refusal
from pictures import photos
from ranks import end_processes

from distmnist import plots, train
from distmnist.checkpoint import source
from distmnist.errors import UsageError
from distmnist.report.__main__ import main as report
from distmnist.runs.pool import Member
from distmnist.sweep.__main__ import parse as parse_sweep

pytest_plugins = ["own_models"]

SMALL = ("--data=pets", "--epochs=2", "--batch-size=12", "--amp=off", "--threads=1")


@pytest.fixture
def run(mine, capsys):
    """Runs the command beside the module `mine` and a few pictures. Returns exit code, output, errors, in lines."""
    photos(Path("pets"))

    def train_there(*arguments):
        code = train.main([*SMALL, *arguments])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return train_there


@pytest.fixture
def trap(run):
    """Runs mlp and the model trap:plain; then has the module leave a file when it is imported once more."""
    shutil.copy("mine.py", "trap.py")
    assert run("--model=mlp,trap:plain", "--output=a")[0] == 0
    Path("trap.py").write_text("import pathlib\npathlib.Path('sprung').touch()\n" + Path("mine.py").read_text())
    sys.modules.pop("trap")
    yield Path("sprung")
    sys.modules.pop("trap", None)


def test_it_is_called_by_its_short_name_and_noted_by_its_full_one(run):
    code, out, err = run("--model=mlp,mine:Net", "--model-args=width=5", "--dropout=0.25", "--output=a")
    assert (code, err) == (0, [])
    assert any(line.startswith("Net  epoch 2/2 ") for line in out) and any(re.match(r"Net +\d", line) for line in out)
    if plots.available():
        assert {path.name for path in Path("a/plots").glob("conf*")} == {"confusion-mlp.svg", "confusion-Net.svg"}
    assert {path.name for path in Path("a").iterdir()} >= {"mlp", "Net"}
    config = json.loads(Path("a/config.json").read_text())
    assert config["given"]["model"] == "mlp,mine:Net" and config["given"]["model_args"] == "width=5"
    assert {name: options["model"] for name, options in config["options"].items()} == {"mlp": "mlp", "Net": "mine:Net"}
    assert (config["options"]["mlp"]["model_args"], config["options"]["Net"]["model_args"]) == (None, "width=5")
    checkpoint = torch.load("a/Net/last.pt", weights_only=True)
    assert checkpoint["config"]["model"] == "mine:Net" and checkpoint["model"]["layers.1.weight"].shape[0] == 5
    assert figures("a", "Net")["parameters"] == sum(
        value.numel() for name, value in checkpoint["model"].items() if "running" not in name and "num_" not in name
    )


def test_a_stopped_run_is_resumed_to_the_same_bits(run):
    assert run("--model=mine:plain", "--output=whole")[0] == 0
    assert run("--model=mine:plain", "--output=a", "--max-steps=7")[0] == 0
    code, out, err = run("--model=mine:plain", "--resume", "--output=a", "--max-steps=10")
    assert (code, err) == (0, []) and "resuming plain after step 7" in out
    assert figures("a", "plain")["weights_sha256"] == figures("whole", "plain")["weights_sha256"]


def test_a_model_of_torchvision_is_trained_on_colour_images_of_32_x_32(run):
    photos(Path("large"), 8, 2, size=(32, 32))
    model = "--model=torchvision.models:resnet18"
    code, out, err = run("--data=large", model, "--max-steps=1", "--output=a")
    assert (code, err) == (0, []) and figures("a", "resnet18")["steps"] == 1
    assert out[-1].startswith("next: ") and out[-1].endswith(f"distmnist.export a {model}")
    assert "--channels" in refusal(run("--data=sample", model))


def test_the_example_of_the_docs_is_trained_on_images_of_any_shape(run):
    text = (Path(__file__).parents[2] / "docs/models.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    Path("mymodel.py").write_text(code)
    try:
        assert run("--model=mymodel:net", "--model-args=width=4", "--dropout=0.1", "--output=a")[0] == 0
    finally:
        sys.modules.pop("mymodel", None)


def test_parameters_that_no_gradient_reaches_are_told_in_a_line(run):
    code, out, _ = run("--model=mine:Net", "--model-args=spare=True", "--output=a", "--print-fast")
    assert code == 0 and "Net: no gradient reaches spare.weight, spare.bias: not trained" in out


def test_what_fast_replaces_is_printed_for_the_images_at_hand_and_nothing_is_left(run):
    before = contents(".")
    code, out, err = run("--model=mlp,mine:Net", "--print-fast")
    assert (code, err, len(out)) == (0, [], 2) and out[1].startswith("Net: ") and contents(".") == before


WRONG = {
    "no such module": (["--model=nowhere:net"], "no module nowhere"),
    "no such attribute": (["--model=mine:nobody"], "mine has no callable nobody"),
    "a callable that needs more arguments": (["--model=mine:deep"], "missing a required argument: 'depth'"),
    "an unknown argument": (["--model=mine:Net", "--model-args=depth=3"], "has no such argument"),
    "arguments for none": (["--model=mlp", "--model-args=depth=3"], "is for a model of your own"),
    "no list": (["--model=mine:Net", "--model-args=depth"], "cannot be understood"),
    "no model": (["--model=mine:nothing"], "return a torch.nn.Module"),
    "no parameters": (["--model=mine:whole"], "has no parameters"),
    "a constructor that raises": (["--model=mine:broken"], "raised KeyError: 'lost'"),
    "wrong classes": (["--model=mine:of_five"], r"\[2, 5\] for 2 images of 3 classes"),
    "not finite": (["--model=mine:Infinite"], "not finite"),
    "channels": (["--model=mine:grey"], "--channels 1"),
    "no effect": (["--model=mine:Net", "--activation=tanh"], "--activation has no effect on --model mine:Net"),
    "given twice": (
        ["--model=mine:Net", "--dropout=0.1", "--model-args=dropout=0.2"],
        "--dropout has no effect on --model mine:Net",
    ),
    "two of one's own": (["--model=mine:Net,mine:Odd"], "names 2 models of your own"),
    "a reserved name": (["--model=mine:Cnn"], "something else called Cnn"),
    "no form": (["--model=mine:Net()"], "not of the form package.module:callable"),
    "no weights": (["--model=mine:Net", "--weights=none.pt"], "--weights .*none.pt cannot be read: No such file"),
    "no state dict": (["--model=mine:Net", "--weights=mine.py"], "neither safetensors nor a state dict"),
    "weights for two": (["--model=mlp,mine:Net", "--weights=a.pt"], "--weights is for one model, and --model names 2"),
    "frozen nothing": (["--model=mine:Net", "--freeze=head"], "--freeze 'head' matches no layer .* layers are: layers"),
    "frozen all": (["--model=mine:Net", "--freeze=layers"], "leaves nothing to train"),
    "no names": (["--model=mine:Net", "--freeze=,"], "--freeze .* must be names separated by commas"),
    "a lone image": (["--model=mine:Net", "--micro-batch-size=1"], "--micro-batch-size 1: .* use 2 or more"),
    "sync and shards": (["--model=mine:Net", "--sync-bn", "--virtual-ranks=2"], "--sync-bn does not go with"),
    "no colon": (["--model=torchvision.models.resnet18"], "choose from all, mlp, cnn, package.module:callable"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_model_that_cannot_be_used_is_one_line_and_exit_code_2_and_leaves_nothing(run, what):
    options, told = WRONG[what]
    before = contents(".")
    assert re.search(told, refusal(run(*options))), what
    assert contents(".") == before and not Path("runs").exists()


def test_an_option_that_another_model_takes_is_no_mistake(run):
    assert run("--model=mlp,mine:Net", "--activation=tanh", "--output=a", "--max-steps=1")[0] == 0


def test_images_too_small_for_the_cnn_leave_nothing_either(run):
    photos(Path("tiny"), size=(3, 8))
    assert "too small" in refusal(run("--data=tiny", "--model=cnn", "--output=a")) and not Path("a").exists()


def test_a_run_imports_nothing_at_a_resume_unless_the_model_is_typed_again(run, trap):
    before = contents("a")
    told = refusal(run("--resume", "--output=a"))
    assert "add --model mlp,trap:plain, because no file of a run chooses what is imported" in told
    assert "has trap:plain; keep it" in refusal(run("--resume", "--output=a", "--model=mine:plain"))
    assert not trap.exists() and contents("a") == before
    assert run("--resume", "--output=a", "--model=mlp")[0] == 0 and not trap.exists()
    shutil.rmtree("a")
    assert run("--model=trap:plain", "--output=a")[0] == 0 and trap.exists()


def test_arguments_are_kept_at_a_resume_and_dropped_with_their_model(run):
    assert run("--model=mlp,mine:plain", "--model-args=width=5", "--output=a", "--max-steps=3")[0] == 0
    told = refusal(run("--model=mine:plain", "--model-args=width=6", "--output=a", "--resume", "--max-steps=4"))
    assert "--resume with --model-args width=6: the run in a has width=5" in told
    assert run("--model=mine:plain,mlp", "--output=a", "--resume", "--max-steps=4")[0] == 0
    assert run("--model=mlp", "--output=a", "--resume", "--max-steps=5")[0] == 0


def test_a_checkpoint_of_another_model_is_refused_at_a_resume(run):
    assert run("--model=mlp,mine:plain", "--output=a", "--max-steps=3")[0] == 0
    Path("mine.py").write_text(Path("mine.py").read_text().replace("width=8", "width=9"))
    sys.modules.pop("mine")
    resumed = ("--model=mine:plain", "--output=a", "--resume", "--max-steps=4")
    code, _, (told,) = run(*resumed)
    assert code == 2
    assert "the checkpoint of mine:plain is of another model: for 1.weight it has a tensor of shape [8, 576]" in told
    shutil.copy("a/mlp/last.pt", "a/plain/last.pt")
    assert "holds a checkpoint of mlp, not of mine:plain" in refusal(run(*resumed))


def test_checkpoints_are_read_without_an_import_and_the_others_beside_them(trap):
    (mlp,), (warning,) = source.load(Path("a"))
    assert mlp.name == "mlp" and "left out: a/plain holds trap:plain, a custom model; add --model trap:plain" in warning
    for path in ("a/plain", "a/plain/last.pt"):
        with pytest.raises(UsageError, match="add --model trap:plain, because no file of a run chooses"):
            source.load(Path(path))
    for path in ("a", "a/plain"):
        with pytest.raises(UsageError, match=r"holds .*trap:plain, not mine:plain"):
            source.load(Path(path), "mine:plain")
    shutil.rmtree("a/mlp")
    shutil.copytree("a/plain", "a/again")
    with pytest.raises(UsageError, match="add --model trap:plain"):
        source.load(Path("a"))
    assert not trap.exists()


def test_a_model_that_is_typed_is_built_with_its_own_arguments_beside_the_others(run):
    options = ("--model=mlp,mine:Net", "--model-args=width=5", "--output=a", "--max-steps=2")
    assert run(*options)[0] == 0
    (mlp, own), warnings = source.load(Path("a"), "mine:Net")
    assert (mlp.name, own.name, warnings) == ("mlp", "Net", [])
    assert own.net.layers[1].weight.shape[0] == 5 and not own.net.training
    assert own.weights_sha256 == figures("a", "Net")["weights_sha256"]
    with pytest.raises(UsageError, match="the weights do not fit"):
        source.load(Path("a/Net"), "mine:Net", "width=6")
    with pytest.raises(UsageError, match="has no such argument"):
        source.load(Path("a/Net"), "mine:Net", "depth=6")


needs_report = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("matplotlib", "scipy", "jinja2"))), reason="needs the extra report"
)


@needs_report
def test_the_report_shows_it_without_an_import(trap):
    assert report(["a"]) == 0 and not trap.exists()
    words = Page(Path("a/report/index.html").read_text()).words()
    assert "plain is trap:plain, which this page does not import" in words
    accuracy = f"{100 * figures('a', 'plain')['test_accuracy']:.2f}"
    assert f"plain 1 {accuracy}" in words and "Expected calibration error: mlp" in words
    assert Path("a/report/confusion-plain.svg").exists()
    shutil.rmtree("a/mlp")  # of the custom model alone
    change_models("a", "plain")
    assert report(["a"]) == 0 and "Calibration" not in Path("a/report/index.html").read_text()


def change_models(run: str, *names: str) -> None:
    """Takes all other models out of a run's summary."""
    path = Path(run, "summary.json")
    summary = json.loads(path.read_text())
    summary["models"] = {name: summary["models"][name] for name in names}
    path.write_text(json.dumps(summary))


@needs_report
@pytest.mark.parametrize("name", ["../a/plain", "other", "plain/../plain"])
def test_a_name_that_is_not_short_for_its_model_is_no_path_of_the_report(trap, name, capsys):
    for file, key in (("summary.json", "models"), ("config.json", "options")):
        content = json.loads(Path("a", file).read_text())
        content[key][name] = content[key].pop("plain")
        Path("a", file).write_text(json.dumps(content))
    assert report(["a"]) == 2 and "holds the model" in capsys.readouterr().err and not trap.exists()


@needs_report
def test_models_with_one_short_name_are_told_apart_by_the_full_one(run):
    shutil.copy("mine.py", "yours.py")
    assert run("--model=mine:plain", "--output=a", "--epochs=1")[0] == 0
    assert run("--model=yours:plain", "--output=b", "--epochs=1")[0] == 0
    sys.modules.pop("yours")
    assert report(["a", "b"]) == 0
    words = Page(Path("a/report/index.html").read_text()).words()
    assert "plain, model mine:plain" in words and "plain, model yours:plain" in words


def test_a_study_and_a_sweep_keep_to_the_model_they_were_begun_with(run):
    assert run("--model=mine:plain", "--model-args=width=5", "--output=a", "--max-steps=2")[0] == 0
    given = {"data": "pets", "batch_size": 12, "amp": "off", "epochs": 2, "max_steps": 2, "threads": 1}
    Member(Path("a"), {**given, "model": "mine:plain", "model_args": "width=5"}).check()
    for changed, told in (
        ({"model": "mine:plain", "model_args": "width=6"}, "--model-args width=6: the run in a has width=5"),
        ({"model": "trap:plain"}, "no module trap"),
        ({"model": "mine:plain", "dropout": 0.1}, "--dropout has no effect"),
    ):
        with pytest.raises(UsageError, match=told):
            Member(Path("a"), {**given, **changed}).check()
    shutil.copy("mine.py", "other.py")
    with pytest.raises(UsageError, match="--model other:plain: the run in a has mine:plain"):
        Member(Path("a"), {**given, "model": "other:plain"}).check()
    sys.modules.pop("other")
    member = Member(Path("a"), {**given, "model": "mine:plain", "model_args": "width=5"})
    assert member.summary() and member.result("plain").steps == 2
    assert {"--model=mine:plain", "--model-args=width=5", "--resume"} <= {*member.command(1)}


def test_a_sweep_takes_the_arguments_of_the_model_as_they_are_and_explores_what_it_may_take():
    swept = parse_sweep(["--model=mine:net", "--model-args=a=1,b=2"])
    assert swept.given["model_args"] == "a=1,b=2" and not swept.space.keys() & {"model_args", "activation", "dropout"}
    assert parse_sweep(["--model=mine:net", "--dropout=0,0.5"]).space == {"dropout": [0.0, 0.5]}
    with pytest.raises(UsageError, match="--model mlp,mine:net cannot be swept"):
        parse_sweep(["--model=mlp,mine:net"])


def run_in(folder: Path, *options: str, code: str = "") -> int:
    """The command on a rank; code: what the module `mine` holds on rank 1."""
    os.chdir(folder)
    if code and os.environ["RANK"] == "1":
        (folder / "one").mkdir()
        (folder / "one/mine.py").write_text(code)
        sys.path.insert(0, str(folder / "one"))
    sys.dont_write_bytecode = True
    return train.main([*SMALL, *options])


def with_other_code(folder: Path, code: str, *options: str) -> int:
    return run_in(folder, *options, code=code)


def test_several_processes_train_it_to_one_digest_with_virtual_ranks(run, mine):
    digests = set()
    for size in (1, 2):
        options = ("--model=mine:plain", "--virtual-ranks=2", f"--output={size}")
        assert [(one.code, one.err) for one in end_processes(run_in, size, mine, *options)] == [(0, [])] * size
        digests.add(figures(str(size), "plain")["weights_sha256"])
    assert len(digests) == 1


def test_weights_for_other_classes_are_noted_and_not_needed_at_a_resume(run):
    photos(Path("more"), classes=("ant", "bee", "cow", "dog"))
    assert run("--data=more", "--model=mine:plain", "--output=before", "--max-steps=1")[0] == 0
    shutil.copy("before/plain/last.pt", "start.pt")
    started = ("--model=mine:plain", "--weights=start.pt", "--freeze=1", "--micro-batch-size=5")
    code, out, err = run(*started, "--output=a", "--max-steps=3")
    told = "plain: the file of --weights has another number of classes; 3.weight, 3.bias start from random weights"
    assert (code, err) == (0, []) and told in out
    digest = hashlib.sha256(Path("start.pt").read_bytes()).hexdigest()
    assert figures("a", "plain")["initial_weights"] == {"sha256": digest, "reinitialized": ["3.weight", "3.bias"]}
    trained, start = (torch.load(path, weights_only=True)["model"] for path in ("a/plain/last.pt", "start.pt"))
    assert torch.equal(trained["1.weight"], start["1.weight"]) and trained["3.bias"].shape == (3,)
    Path("start.pt").unlink()
    code, _, err = run("--model=mine:plain", "--resume", "--output=a", "--max-steps=5")
    assert (code, err) == (0, [])
    assert figures("a", "plain")["initial_weights"]["sha256"] == digest
    for changed in ("--freeze=3", "--micro-batch-size=4", "--weights=other.pt"):
        assert "--resume with --" in refusal(run("--model=mine:plain", "--resume", "--output=a", changed))


def with_own_weights(folder: Path, *options: str) -> int:
    return run_in(folder, *options, f"--weights={os.environ['RANK']}.pt")


def test_two_processes_with_different_weights_are_refused_and_equal_ones_may_lie_anywhere(run, mine):
    assert run("--model=mine:plain", "--output=before", "--max-steps=1")[0] == 0
    for name in ("0.pt", "1.pt"):
        shutil.copy("before/plain/last.pt", name)
    options = ("--model=mine:plain", "--max-steps=2")
    assert [(one.code, one.err) for one in end_processes(with_own_weights, 2, mine, *options, "--output=a")] == [
        (0, [])
    ] * 2
    state = torch.load("1.pt", weights_only=True)["model"]
    torch.save(state, "1.pt")
    (line,) = [line for one in end_processes(with_own_weights, 2, mine, *options, "--output=b") for line in one.err]
    assert "has --weights of SHA-256" in line and "start all processes alike" in line and not Path("b").exists()


def test_synchronized_batch_norm_on_several_processes_needs_gpus(run, mine):
    ended = end_processes(run_in, 2, mine, "--model=mine:Net", "--sync-bn", "--device=cpu", "--output=a")
    (line,) = [line for one in ended for line in one.err]
    assert "--sync-bn: torch has it on GPUs alone" in line and not Path("a").exists()
    assert run("--model=mine:Net", "--sync-bn", "--max-steps=1", "--output=a")[0] == 0


@pytest.mark.parametrize(
    ("model", "told"), [("mine:nobody", "has no callable"), ("mine:of_five", "classes"), ("mine:broken", "'lost'")]
)
def test_two_processes_refuse_a_model_in_one_line_and_leave_nothing(run, mine, model, told):
    before = contents(".")
    ended = end_processes(run_in, 2, mine, f"--model={model}", "--output=a")
    (line,) = [line for one in ended for line in one.err]
    assert 2 in [one.code for one in ended] and told in line and contents(".") == before


def test_two_processes_with_different_code_are_refused(run, mine):
    code = (mine / "mine.py").read_text().replace("width=8", "width=9")
    ended = end_processes(with_other_code, 2, mine, code, "--model=mine:plain", "--output=a")
    (line,) = [line for one in ended for line in one.err]
    assert "has a model plain of 5,223 parameters (1.weight [9, 576]" in line and "rank 0 has 4,643 parameters" in line
    assert not Path("a").exists()
