"""One run of the command on several ranks: one voice, one set of files, one line when something is wrong."""

import contextlib
import io
import json
import os
from pathlib import Path

import pytest
import torch
from digits import few_digits, put
from ranks import run_processes

from distmnist import train
from distmnist.data import known
from distmnist.runs import job

SMALL = ("--model=mlp", "--epochs=2", "--batch-size=60", "--amp=off", "--timeout=30", "--threads=1")


def command(folder, *arguments, last=(), prepare=None):
    """`train.main` on this rank, on a few digits; `last`: what the last rank is told besides."""
    os.chdir(folder)
    known.fetch = lambda *_: None
    known.load = lambda name, directory: few_digits()
    is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if prepare:
        prepare(is_last)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = train.main([*arguments, *(last if is_last else ())])
    return code, out.getvalue().splitlines(), err.getvalue().splitlines()


def command_with(prepare, last, folder, *arguments):
    return command(folder, *arguments, last=last, prepare=prepare)


def refusal(answers):
    """The one line that one rank has said: rank 0, if there was time."""
    assert [code for code, *_ in answers] == [2] * len(answers)
    assert [out for _, out, _ in answers] == [[]] * len(answers)
    (line,) = [line for *_, err in answers for line in err]
    return line


@pytest.mark.parametrize("size", [2, 3])
def test_several_ranks_leave_one_run_and_speak_with_one_voice(tmp_path, size):
    answers = run_processes(command, size, tmp_path, *SMALL, "--output=a")
    assert [code for code, *_ in answers] == [0] * size
    assert (
        answers[0][1][-1] == "next: python -m distmnist.export a"
        and f"{size} processes x 1 thread on cpu" in answers[0][1][1]
    )
    assert all(out == err == [] for _, out, err in answers[1:])
    written = json.loads((tmp_path / "a/summary.json").read_text())
    assert (written["status"], written["world_size"]) == ("finished", size)
    assert (written["models"]["mlp"]["count"], written["models"]["mlp"]["epochs"]) == (120, 2)
    assert sorted(os.listdir(tmp_path / "a/mlp")) == ["last.pt", "metrics.jsonl", "predictions.npz", "prev.pt"]


def test_a_run_goes_on_with_its_own_options_on_another_number_of_ranks(tmp_path):
    run_processes(command, 2, tmp_path, *SMALL, "--output=a", "--max-steps=5")
    answers = run_processes(command, 3, tmp_path, "--output=a", "--resume", "--max-steps=10", "--timeout=10")
    assert [(code, err) for code, _, err in answers] == [(0, [])] * 3
    entries = [json.loads(line) for line in (tmp_path / "a/mlp/metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [5, 10]


def other_version(is_last):
    if is_last:
        job.__version__ = "0.0.9"


@pytest.mark.parametrize(
    ("last", "prepare", "told"),
    [
        (["--lr=0.5"], None, "has --lr 0.5, rank 0 has 0.001"),
        (["--seed=4"], None, "has --seed 4, rank 0 has 0"),
        (["--model=cnn"], None, "has --model cnn, rank 0 has mlp"),
        (["--recipe=best"], None, "rank 0 has"),
        ([], other_version, "has distmnist 0.0.9, rank 0 has"),
    ],
    ids=["lr", "seed", "model", "recipe", "version"],
)
def test_ranks_that_were_started_differently_are_told_which_and_how(tmp_path, last, prepare, told):
    line = refusal(run_processes(command_with, 3, prepare, last, tmp_path, *SMALL))
    assert "rank 2 on" in line and told in line
    assert os.listdir(tmp_path) == []


def note_directory(_):
    def load(name, directory):
        Path(f"loaded-{os.environ['RANK']}").write_text(str(directory))
        return few_digits()

    known.load = load


def test_each_node_reads_its_digits_where_it_was_told_to(tmp_path):
    answers = run_processes(
        command_with, 2, note_directory, ["--data-dir=there"], tmp_path, *SMALL, "--output=a", "--data-dir=here"
    )
    assert [code for code, *_ in answers] == [0, 0]
    assert [(tmp_path / f"loaded-{rank}").read_text() for rank in range(2)] == ["here", "there"]


def test_a_batch_smaller_than_the_world_is_refused_and_leaves_nothing(tmp_path):
    line = refusal(run_processes(command, 4, tmp_path, *SMALL, "--batch-size=3", "--output=a"))
    assert "--batch-size 3 is smaller than the 4 processes; use 4 or more" in line
    assert os.listdir(tmp_path) == []


def one_gpu(_):
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1


def no_gpu(_):
    torch.cuda.is_available = lambda: False


@pytest.mark.parametrize(
    ("prepare", "arguments", "told"),
    [
        (one_gpu, [], "2 processes but 1 GPUs"),
        (no_gpu, ["--device=cuda"], "--device cuda: this machine has no GPU"),
    ],
)
def test_more_processes_than_gpus_and_no_gpu_at_all_are_refused(tmp_path, prepare, arguments, told):
    assert told in refusal(run_processes(command_with, 2, prepare, [], tmp_path, *SMALL, *arguments))
    assert not list(tmp_path.glob("runs/*"))


def real_data(_):
    """Takes the reader back that `command` has replaced."""
    known.fetch, known.load = real_fetch, real_load


real_fetch, real_load = known.fetch, known.load


def test_a_damaged_file_is_refused_once(tmp_path):
    put(tmp_path / "data", {name: b"\0\0\x08\3" for name in known.KNOWN_SETS["mnist"].files})
    line = refusal(run_processes(command_with, 2, real_data, [], tmp_path, *SMALL))
    assert "data/t" in line and "bytes" in line


def test_an_output_in_the_way_is_refused_by_all_ranks_together(tmp_path):
    (tmp_path / "a").write_text("a file")
    assert "--output a cannot be written" in refusal(run_processes(command, 2, tmp_path, *SMALL, "--output=a"))


def test_several_nodes_must_name_the_output(tmp_path):
    environment = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}
    line = refusal(run_processes(command, 2, tmp_path, *SMALL, environment=environment))
    assert "--output must be named when there are several nodes" in line


def test_a_loss_that_is_not_finite_is_one_line_and_code_1_on_all_ranks(tmp_path):
    answers = run_processes(command, 2, tmp_path, *SMALL, "--output=a", "--optimizer=sgd", "--lr=1e30")
    assert [(code, len(err)) for code, _, err in answers] == [(1, 1), (1, 0)]
    assert "the loss is" in answers[0][2][0]
