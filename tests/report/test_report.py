"""The report: what its page says of runs, studies and sweeps, and what it refuses to say."""

import base64
import dataclasses
import hashlib
import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from html_page import Page
from made_up import change, made_up, study, sweep

from distmnist.checkpoint import storage
from distmnist.data import known
from distmnist.errors import UsageError
from distmnist.report import answers, comparison, reading
from distmnist.report import page as pages
from distmnist.report.__main__ import main
from distmnist.runs.records import Spread, Trial

for needed in ("matplotlib", "scipy"):
    pytest.importorskip(needed, reason="needs the extra report")

pytest_plugins = ["report_fixtures"]


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on the trained run."""
    assert main([str(finished)]) == 0
    return finished / "report"


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "index.html").read_text()


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the trained run to spoil."""
    return made_up(finished, tmp_path / "copy")


def refusal(capsys: pytest.CaptureFixture, *arguments: object) -> str:
    """The one line with which the command refuses."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("distmnist: ")
    return err


def test_the_page_asks_for_nothing_outside_itself_and_forbids_it(folder: Path, text: str):
    parsed = Page(text)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "action", "data", "xlink:href"):
            target = attributes.get(name)
            if target is None or target.startswith(("#", "data:")):
                continue
            assert tag == "a" and (folder / target).is_file(), (tag, target)
    (policy,) = (a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';") and "http" not in policy
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy


def test_every_id_is_there_once_and_every_reference_finds_its_own(text: str):
    tags = Page(text).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in tags:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, ids[0]) in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    assert all(attributes.get("alt") for tag, attributes in tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in tags if attributes.get("role") == "img")


def test_the_page_says_the_figures_of_the_run(finished: Path, text: str):
    words, summary = Page(text).words(), json.loads((finished / "summary.json").read_text())
    for net, figure in summary["models"].items():
        assert f"{100 * figure['test_accuracy']:.2f} %" in words
        assert f"{figure['parameters']:,}" in words and figure["weights_sha256"] in words
        last = (finished / net / "metrics.jsonl").read_text().splitlines()[-1]
        assert f"{json.loads(last)['train_loss']:.4f}" in words
        assert f"{net}: balanced accuracy {100 * figure['balanced_accuracy']:.2f} %" in words
        assert f"9 {sum(figure['confusion'][9])} {100 * figure['precision'][9]:.2f} %" in words
        table = re.search(rf"<caption>{net}: a row.*?</table>", text, re.DOTALL).group()
        cells = [int(cell) for cell in re.findall(r"<td>(\d+)</td>", table)]
        assert cells == np.ravel(figure["confusion"]).tolist()
    assert summary["versions"]["torch"] in words


def test_the_plots_lie_beside_the_page_as_svg_and_png(folder: Path):
    for name in ("comparison", "loss", "accuracy", "confusion-mlp", "confusion-cnn", "calibration"):
        assert (folder / f"{name}.svg").read_bytes().startswith(b"<?xml")
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_one_seed_has_no_interval_and_the_page_says_why(text: str):
    words = Page(text).words()
    assert "no interval is drawn" in words and "none from one seed" in words
    assert "95 % interval of" not in words and "the mean's 95 % interval" not in words


def test_the_sample_never_stands_beside_published_results(folder: Path, text: str):
    drawn = (folder / "comparison.svg").read_text()
    assert "published" not in drawn and not re.search(r"97\.42|98\.88", Page(text).words())
    assert "no figure here compares with one on MNIST" in Page(text).words()


def test_on_mnist_the_published_result_stands_beside_the_published_recipe_alone(finished: Path, tmp_path: Path):
    ours = made_up(finished, tmp_path / "ours", recipe="best", lr=3e-3)
    theirs = made_up(finished, tmp_path / "theirs")
    for run in (ours, theirs):
        change(run / "summary.json", lambda s: s["dataset"].update(name="mnist"))
    rows = comparison.compare(reading.read([ours, theirs]))
    assert {row.label: row.published for row in rows} == {
        "mlp, lr 0.003": None,
        "mlp, lr 0.001": 0.9742,
        "cnn, lr 0.003": None,
        "cnn, lr 0.001": 0.9888,
    }


def test_what_files_say_is_escaped(copy: Path, tmp_path: Path):
    hostile = "</script><script>alert(1)</script>\"'&"
    change(copy / "summary.json", lambda s: s["versions"].update({hostile: hostile}) or s.update(device=hostile))
    change(copy / "config.json", lambda c: c["options"]["mlp"].update(recipe=hostile, optimizer=hostile))
    assert main([str(copy), "--output", str(tmp_path / "out")]) == 0
    written = (tmp_path / "out" / "index.html").read_text()
    assert "<script>alert" not in written and "&lt;script&gt;alert(1)" in written
    parsed = Page(written)
    assert hostile in parsed.words() and len([tag for tag, _ in parsed.tags if tag == "script"]) == 2


def test_three_seeds_have_students_interval_and_pairs_are_compared_by_seed(finished: Path, tmp_path: Path):
    runs = [made_up(finished, tmp_path / f"{seed}", seed=seed, wrong=7 * seed) for seed in range(3)]
    material = reading.read(runs)
    rows = comparison.compare(material)
    assert [row.label for row in rows] == ["mlp", "cnn"] and [len(row.values) for row in rows] == [3, 3]
    for row in rows:
        mean, deviation = np.mean(row.values), np.std(row.values, ddof=1)
        half = 4.302653 * deviation / math.sqrt(3)  # Student's t with 2 degrees of freedom, 97.5 %: from tables
        assert row.interval == pytest.approx((mean - half, mean + half), abs=1e-7)
    (words,) = comparison.verdicts(material, rows)
    assert words.startswith("cnn minus mlp, same random seeds: +") and "over 3 seeds; it leaves out 0." in words


def test_different_options_are_different_rows_named_by_what_differs(finished: Path, tmp_path: Path):
    runs = [made_up(finished, tmp_path / "a"), made_up(finished, tmp_path / "b", lr=0.01)]
    labels = [row.label for row in comparison.compare(reading.read(runs))]
    assert labels == ["mlp, lr 0.001", "mlp, lr 0.01", "cnn, lr 0.001", "cnn, lr 0.01"]


def test_the_nets_answers_are_counted_as_a_loop_would(finished: Path):
    run, test = reading.read_run(finished), known.load_sample().test
    mlp, cnn = (answers.show(run.nets[name], test) for name in ("mlp", "cnn"))
    assert (mlp.otherwise, cnn.otherwise) == (0, 0)
    pairs = [(int(a == y), int(b == y)) for a, b, y in zip(mlp.net.predictions, cnn.net.predictions, mlp.net.labels)]  # noqa: B905
    found = answers.disagreement(mlp, cnn)
    counted = {"both": found.both, "neither": found.neither} | {
        "only_a": found.test.only_a,
        "only_b": found.test.only_b,
    }
    order = {"both": (1, 1), "only_a": (1, 0), "only_b": (0, 1), "neither": (0, 0)}
    assert counted == {key: pairs.count(pair) for key, pair in order.items()}
    assert found.images and all(mlp.net.predictions[i] != cnn.net.predictions[i] for i in found.images)
    worst = cnn.worst(5)
    losses = [cnn.net.losses[i] for i in range(1000) if cnn.net.predictions[i] != cnn.net.labels[i]]
    assert [cnn.net.losses[i] for i in worst] == sorted(losses, reverse=True)[:5]
    gap = 0.0
    for index in range(10):
        inside = [
            i
            for i in range(1000)
            if index / 10 <= mlp.confidence[i] < (index + 1) / 10 or (index == 9 and mlp.confidence[i] == 1)
        ]
        gap += abs(sum(float(mlp.confidence[i]) - int(mlp.right[i]) for i in inside)) / 1000
    assert mlp.calibration_error() == pytest.approx(gap, abs=1e-5)


def test_a_study_and_a_sweep_are_told_in_their_own_words(finished: Path, tmp_path: Path):
    made = [study(finished, tmp_path / "study"), sweep(tmp_path / "sweep")]
    assert main([*map(str, made), "--output", str(tmp_path / "out")]) == 0
    parsed = Page((tmp_path / "out" / "index.html").read_text())
    words = parsed.words()
    assert "The cnn is better by 1.00 points." in words and "no interval is drawn" not in words
    assert "over 1 percent better partly supported by 1.6 to 2.0 points" in words
    assert "mlp, best 92.00 %" in words and f"mlp of {tmp_path / 'study/runs/best-seed0'}" in words
    assert "6 trials" in words and "Winner: lr 0.001, activation gelu." in words and "97.12 %" in words
    assert {"sweep1.svg", "sweep1-lr.svg", "sweep1-activation.png"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_an_options_plot_compares_trials_that_differ_in_it_alone_where_they_cover_its_values():
    def trial(accuracy, **options):
        figure = Spread(mean=accuracy, values=[accuracy])
        return Trial(trial=0, options=options, seeds=[0], val_accuracy=figure, train_seconds=figure, pareto=False)

    def compared(*trials):
        found = pages.searched(trials)
        return {name: {value: [a.mean for a in several] for value, several in found[name]} for name in found}

    centre = trial(0.97, lr=0.001, optimizer="adam")
    one_changed = [centre, trial(0.96, lr=0.003, optimizer="adam"), trial(0.9, lr=0.001, optimizer="sgd")]
    assert compared(*one_changed) == {
        "lr": {"0.001": [0.97], "0.003": [0.96]},
        "optimizer": {"adam": [0.97], "sgd": [0.9]},
    }
    other = trial(0.92, lr=0.003, optimizer="sgd")
    assert compared(*one_changed, other)["lr"] == {"0.001": [0.97, 0.9], "0.003": [0.96, 0.92]}
    assert compared(centre, other)["lr"] == {"0.001": [0.97], "0.003": [0.92]}


def test_a_sweep_alone_needs_no_run_and_no_digits(tmp_path: Path):
    assert main([str(sweep(tmp_path / "sweep"))]) == 0
    words = Page((tmp_path / "sweep/report/index.html").read_text()).words()
    assert "1 sweep on the sample" in words and "Draw a digit" not in words


def test_what_is_no_finished_run_is_refused_in_a_line(finished: Path, copy: Path, tmp_path: Path, capsys):
    assert "nowhere is no run, study or sweep" in refusal(capsys, tmp_path / "nowhere")
    change(copy / "summary.json", lambda s: s.update(status="interrupted"))
    assert "copy is not finished" in refusal(capsys, copy)
    (copy / "summary.json").unlink()
    assert "copy is not finished" in refusal(capsys, copy)
    assert not (copy / "report").exists()
    other = made_up(finished, tmp_path / "other")
    change(other / "summary.json", lambda s: s["dataset"].update(name="mnist"))
    assert "different data sets do not compare" in refusal(capsys, finished, other)
    twin = made_up(finished, tmp_path / "twin")
    assert "they are not independent repeats" in refusal(capsys, finished, twin)
    unfinished = sweep(tmp_path / "sweep")
    change(unfinished / "sweep.json", lambda s: s.update(status="interrupted"))
    assert "sweep is not finished (interrupted)" in refusal(capsys, unfinished)


def spoil(path: Path, content: bytes = b"{") -> None:
    path.write_bytes(content)


DAMAGES = {
    "summary.json cannot be read: damaged": lambda run: spoil(run / "summary.json"),
    "config.json cannot be read: damaged": lambda run: spoil(run / "config.json"),
    "metrics.jsonl is damaged": lambda run: spoil(run / "mlp/metrics.jsonl"),
    "metrics.jsonl is empty": lambda run: spoil(run / "mlp/metrics.jsonl", b""),
    "predictions.npz is damaged": lambda run: spoil(run / "mlp/predictions.npz", b"PK"),
    "has schema 2": lambda run: change(run / "summary.json", lambda s: s.update(schema=2)),
    "missing required field `test_loss` - at `$.models[...]`": lambda run: change(
        run / "summary.json", lambda s: s["models"]["mlp"].pop("test_loss")
    ),
    "NaN is not a finite number": lambda run: change(
        run / "summary.json", lambda s: s["models"]["mlp"].update(test_loss=math.nan)
    ),
    "holds the model '../x'": lambda run: change(
        run / "summary.json", lambda s: s["models"].update({"../x": s["models"]["mlp"]})
    ),
    "counts other right answers": lambda run: change(
        run / "summary.json", lambda s: s["models"]["cnn"].update(correct=1)
    ),
    "last.pt is damaged": lambda run: spoil(run / "mlp/last.pt"),
    "other weights": lambda run: change(run / "summary.json", lambda s: s["models"]["mlp"].update(weights_sha256="0")),
}


@pytest.mark.parametrize("told", DAMAGES)
def test_damage_is_a_line_and_nothing_is_written(told: str, copy: Path, capsys):
    DAMAGES[told](copy)
    assert told in refusal(capsys, copy)
    assert not list((copy / "report").glob("*"))


def test_predictions_of_another_net_or_of_other_digits_are_refused(copy: Path):
    test, net = known.load_sample().test, reading.read_run(copy).nets["mlp"]
    with pytest.raises(UsageError, match="not about these test images"):
        answers.show(net, dataclasses.replace(test, labels=test.labels.flip(0)))
    checkpoint = storage.load(copy / "mlp/last.pt")
    for tensor in checkpoint.model.values():
        tensor.neg_()
    digest = storage.weights_sha256(checkpoint.model)
    result = dataclasses.replace(checkpoint.result, weights_sha256=digest)
    storage.save(copy / "mlp", dataclasses.replace(checkpoint, result=result))
    change(copy / "summary.json", lambda s: s["models"]["mlp"].update(weights_sha256=digest))
    with pytest.raises(UsageError, match=r"test images otherwise than predictions\.npz says"):
        answers.show(reading.read_run(copy).nets["mlp"], test)


def test_without_matplotlib_one_line_names_the_extra(finished: Path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    assert "needs matplotlib; install: pip install 'distmnist[report]'" in refusal(capsys, finished)


def test_a_page_is_replaced_whole_or_not_at_all_and_a_strangers_never(
    folder: Path, finished: Path, monkeypatch, capsys
):
    before = (folder / "index.html").read_bytes()
    write = storage.write_atomically

    def full(path: Path, content: bytes) -> None:
        if path.name == "index.html":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(pages, "write_atomically", full)
    monkeypatch.setattr(pages, "figures", lambda *_: {})
    monkeypatch.setattr(pages, "render", lambda *_: "new")
    assert main([str(finished)]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert (folder / "index.html").read_bytes() == before
    elsewhere = finished / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "index.html").write_text("a page of my own")
    assert "is no report; name another" in refusal(capsys, finished, "--output", elsewhere)
    assert (elsewhere / "index.html").read_text() == "a page of my own"


def test_a_path_that_is_mistyped_is_a_line(capsys):
    assert "--outptu" in refusal(capsys, "a", "--outptu", "b")
    assert "RUN" in refusal(capsys)
