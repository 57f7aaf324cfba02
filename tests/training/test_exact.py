"""Interrupted anywhere and resumed, on as many processes or on others, training ends with the very same bits."""

import itertools
from typing import Any

import pytest
import torch
from digits import few_digits
from hooks import Ask, Keep
from ranks import run_ranks

from distmnist.checkpoint import storage
from distmnist.checkpoint.record import Json
from distmnist.checkpoint.storage import weights_sha256
from distmnist.config import TrainConfig
from distmnist.distributed.world import World
from distmnist.training.requests import Request
from distmnist.training.trainer import fit

STEPS = 2 * 5  # two epochs of 300 digits in batches of 64, the last one of 44


def options(**changes: Any) -> dict[str, Any]:
    every_draw = {"dropout": 0.2, "augment": 1.0, "flip": True, "crop": True}
    every_loss = {"label_smoothing": 0.1, "class_weights": "balanced"}
    return {"model": "mlp", "epochs": 2, "amp": "off"} | every_draw | every_loss | changes


def train(
    world: World, given: dict[str, Any], snapshot: bytes | None = None, stop_at: int | None = None
) -> tuple[bytes | None, str, list[dict[str, Json]]]:
    """Trains, from a snapshot's bytes if given, and has the last rank request a stop before step `stop_at`.

    Returns the last snapshot's bytes (on rank 0), the digest of the weights, and the history.
    """
    saved: list[bytes] = []
    restored = snapshot and storage.from_bytes(snapshot, "test")
    asked = itertools.count(restored.progress.global_step if restored else 0)

    def requests() -> Request:
        return Request.STOP if next(asked) == stop_at and world.rank == world.size - 1 else Request.NOTHING

    result = fit(
        TrainConfig(**given),
        few_digits(),
        world=world,
        checkpoint=restored,
        callbacks=[Keep(lambda checkpoint: saved.append(storage.to_bytes(checkpoint)), world.rank), Ask(requests)],
    )
    return saved[-1] if saved else None, weights_sha256(result.state), [epoch.to_json() for epoch in result.history]


def cut_and_resumed(world: World, given: dict[str, Any], cuts: tuple[int, ...]) -> list[str]:
    """What differs, at each of the cuts, between the undisturbed fit and one that is stopped there and resumed."""
    whole, digest, history = train(world, given)
    differences = []
    for cut in cuts:
        part, *_ = train(world, given, stop_at=cut)
        part = world.broadcast(part)
        position = storage.from_bytes(part, "test").progress.global_step
        if position != cut + 1:
            differences.append(f"stopped at {position}, not {cut + 1}")
        again, digest_again, history_again = train(world, given, snapshot=part)
        if digest_again != digest:
            differences.append(f"weights after a cut at {cut}")
        if timeless(history_again) != timeless(history):
            differences.append(f"history after a cut at {cut}")
        if world.is_main:
            old, new = (storage.from_bytes(content, "test").to_dict() for content in (whole, again))
            differences += [f"{name} after a cut at {cut}" for name in unequal(timeless(old), timeless(new))]
    return differences


TIMES = ("images_per_second", "train_seconds", "epoch_seconds")


def timeless(value: Any) -> Any:
    """The value without the fields that tell the time."""
    if isinstance(value, dict):
        return {name: timeless(part) for name, part in value.items() if name not in TIMES}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def unequal(one: Any, other: Any, name: str = "") -> list[str]:
    """The paths at which two nested values differ in any bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [name]
        return [path for key in one for path in unequal(one[key], other[key], f"{name}/{key}")]
    if isinstance(one, list | tuple) and len(one) == len(other):
        return [path for n, pair in enumerate(zip(one, other, strict=True)) for path in unequal(*pair, f"{name}/{n}")]
    return [] if one == other else [name]


@pytest.mark.parametrize(("model", "amp"), [("mlp", "off"), ("cnn", "off"), ("mlp", "bf16")])
def test_one_process_resumes_exactly_at_any_step(model, amp):
    assert cut_and_resumed(World(), options(model=model, amp=amp), (0, 3, 4, STEPS - 1)) == []


def test_one_process_resumes_the_cnn_exactly_in_bf16():
    """Few steps: bf16 is emulated on many processors, and takes them a second a step."""
    assert cut_and_resumed(World(), options(model="cnn", amp="bf16", max_steps=6), (3,)) == []


def test_one_process_resumes_exactly_with_the_gradient_scaler():
    assert cut_and_resumed(World(), options(amp="fp16"), (0, 3, 4, STEPS - 1)) == []
    assert cut_and_resumed(World(), options(model="cnn", amp="fp16", max_steps=2), (0,)) == []


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_one_process_resumes_exactly_with_every_optimizer_and_schedule(optimizer, schedule):
    given = options(optimizer=optimizer, schedule=schedule, weight_decay=0.01, grad_clip=0.5)
    assert cut_and_resumed(World(), given, (2, 7)) == []


@pytest.mark.parametrize(("model", "world_size"), [("mlp", 2), ("mlp", 4), ("cnn", 3)])
def test_processes_under_ddp_resume_exactly(world_size, model):
    """The last rank alone requests a stop; step 4 is the last one of an epoch: its evaluation follows the resume."""
    assert run_ranks(cut_and_resumed, world_size, options(model=model), (1, 4)) == [[]] * world_size


def test_an_fp16_run_on_two_processes_resumes_exactly():
    assert run_ranks(cut_and_resumed, 2, options(amp="fp16"), (3,)) == [[], []]


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_virtual_ranks_give_the_same_bits_on_1_2_4_and_8_processes(model):
    given = options(model=model, virtual_ranks=8)
    _, digest, history = train(World(), given)
    for world_size in (2, 4, 8):
        for _, theirs, history_there in run_ranks(train, world_size, given):
            assert theirs == digest
            assert timeless(history_there) == timeless(history)


def test_virtual_ranks_give_the_same_bits_when_the_number_of_processes_changes_midway():
    given = options(model="cnn", virtual_ranks=8)
    _, digest, _ = train(World(), given)
    snapshot = None
    for world_size, stop_at in ((4, 1), (2, 4), (8, 6)):
        snapshot = run_ranks(train, world_size, given, snapshot, stop_at)[0][0]
    assert train(World(), given, snapshot)[1] == digest


def test_more_virtual_ranks_than_digits_in_a_batch_train_all_the_same():
    given = options(virtual_ranks=128, max_steps=2)
    assert run_ranks(train, 2, given)[1][1] == train(World(), given)[1]


def test_without_virtual_ranks_another_number_of_processes_is_only_nearly_equal():
    """Guards the test above: were the sums equal anyway, it would prove nothing."""
    given = options(model="cnn", dropout=0.0)
    assert run_ranks(train, 3, given)[0][1] != train(World(), given)[1]


@pytest.mark.parametrize(("model", "cuts"), [("mlp", tuple(range(STEPS))), ("cnn", (0, 4, STEPS - 1))])
def test_plain_pytorch_resumes_exactly_at_every_step(model, cuts):
    assert cut_and_resumed(World(), options(model=model, fast="off"), cuts) == []


def test_plain_pytorch_resumes_exactly_with_the_gradient_scaler_and_with_momentum():
    given = options(amp="fp16", optimizer="sgd", grad_clip=0.5, fast="off")
    assert cut_and_resumed(World(), given, (0, 6)) == []


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_under_plain_ddp_resume_exactly(world_size):
    assert run_ranks(cut_and_resumed, world_size, options(fast="off"), (1, 4)) == [[]] * world_size


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_virtual_ranks_in_plain_pytorch_give_the_same_bits_on_1_2_and_4_processes(model):
    given = options(model=model, virtual_ranks=4, fast="off")
    _, digest, history = train(World(), given)
    for world_size in (2, 4):
        for _, theirs, history_there in run_ranks(train, world_size, given):
            assert theirs == digest
            assert timeless(history_there) == timeless(history)


def trained_weights(world: World, given: dict[str, Any]) -> torch.Tensor:
    state = fit(TrainConfig(**given), few_digits(), world=world).state
    return torch.cat([tensor.flatten() for tensor in state.values()])


@pytest.mark.parametrize(("model", "virtual_ranks"), [("mlp", 0), ("mlp", 4), ("cnn", 0), ("cnn", 4)])
def test_what_is_fast_trains_what_plain_pytorch_trains(model, virtual_ranks):
    """To the bit in the mlp, whose replacements all claim it. The cnn's oneDNN tensors round otherwise."""
    given = options(model=model, dropout=0.0, virtual_ranks=virtual_ranks)
    auto, off = (trained_weights(World(), {**given, "fast": fast}) for fast in ("auto", "off"))
    if model == "mlp":
        assert torch.equal(auto, off)
    assert float((auto - off).norm()) <= 1e-3 * float(off.norm())


def test_what_is_fast_trains_what_plain_pytorch_trains_on_two_processes():
    """Shared memory and gloo's ring add up two numbers alike."""
    auto, off = (run_ranks(trained_weights, 2, options(fast=fast)) for fast in ("auto", "off"))
    assert all(torch.equal(auto[0], other) for other in (*auto, *off))


def positions_saved(
    world: World, given: dict[str, Any], request_at: int | None, checkpoint_steps: int = 0
) -> list[int]:
    """Where rank 0 kept checkpoints when the last rank requested one before step `request_at`."""
    saved, asked = [], itertools.count()

    def requests() -> Request:
        return Request.CHECKPOINT if next(asked) == request_at and world.rank == world.size - 1 else Request.NOTHING

    fit(
        TrainConfig(**given),
        few_digits(),
        world=world,
        checkpoint_steps=checkpoint_steps,
        callbacks=[Keep(lambda checkpoint: saved.append(checkpoint.progress.global_step), world.rank), Ask(requests)],
    )
    return saved


def test_checkpoints_are_kept_every_k_steps_at_the_ends_of_epochs_and_on_any_ranks_request():
    assert positions_saved(World(), options(), None, checkpoint_steps=2) == [2, 4, 5, 6, 8, 10]
    assert run_ranks(positions_saved, 2, options(), 2) == [[3, 5, 10], []]
