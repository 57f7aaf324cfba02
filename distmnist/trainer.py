"""The training loop of one net: `fit`. Reads top to bottom.

It knows nothing of process groups, signal handlers, files or exit codes: what it needs of them is handed in, so that a
one-process fit can run inside any larger job.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor

from distmnist.augment import draw_maps, warp
from distmnist.checkpoint import weights_sha256
from distmnist.config import Config, RunError
from distmnist.data import Dataset, hold_out
from distmnist.distributed import World
from distmnist.layout import lay_out
from distmnist.loader import Shard, load
from distmnist.log import Log, Silence
from distmnist.metrics import Evaluation, evaluate
from distmnist.models import build_model
from distmnist.optim import build_optimizer, learning_rate
from distmnist.precision import Precision, choose_amp
from distmnist.reducer import Ballot, BallotBox, build_reducer
from distmnist.sampler import GlobalBatchSampler
from distmnist.seeds import seed_for
from distmnist.signals import Wish, no_wish

Snapshot = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a fit leaves. `figures`: the net's entry in summary.json; `evaluation`: every test digit's prediction.

    Both are None when the fit was interrupted. `state`: the bare state dict, float32, on the CPU.
    """

    state: dict[str, Tensor]
    history: list[dict[str, Any]]
    figures: dict[str, Any] | None
    evaluation: Evaluation | None


def fit(
    config: Config,
    world: World,
    data: Dataset,
    log: Log | None = None,
    *,
    snapshot: Snapshot | None = None,
    save: Callable[[Snapshot], None] | None = None,
    wishes: Callable[[], Wish] = no_wish,
) -> Result:
    """Trains the net `config.model` on `data.train`, on from `snapshot` if given, and evaluates it on `data.test`.

    All ranks call it alike, with the data on `world.device`. Rank 0 calls `save` after every epoch, every
    `config.snapshot_steps`, and when a rank wished for it. `wishes` is asked before every step; all ranks act on what
    any of them wished, after the same step. What `save` is given shares its tensors with the training: write it, or
    copy it. Raises RunError on all ranks if the loss or a weight is no longer finite; no such state is saved.
    """
    trainer = Trainer(config, world, data, log or Silence(), save, wishes)
    if snapshot:
        trainer.restore(snapshot)
    return trainer.run()


class Trainer:
    """The state of one fit. Two counters: `position`, batches consumed; `updates`, without those that were skipped."""

    def __init__(
        self,
        config: Config,
        world: World,
        data: Dataset,
        log: Log,
        save: Callable[[Snapshot], None] | None,
        wishes: Callable[[], Wish],
    ) -> None:
        amp, _ = choose_amp(config.amp, world.device)
        self.config = config = dataclasses.replace(config, amp=amp)
        self.world, self.data, self.log, self.save, self.wishes = world, data, log, save, wishes
        self.train, self.held_out = data.train, None
        if config.val_fraction:
            self.train, self.held_out = hold_out(data.train, config.val_fraction)

        self.sampler = GlobalBatchSampler(
            self.train,
            batch_size=config.batch_size,
            num_replicas=world.size,
            rank=world.rank,
            seed=config.seed,
            parts=config.virtual_ranks,
        )
        self.steps = self.sampler.plan.steps
        self.total = self.steps * config.epochs
        self.target = min(self.total, config.max_steps or self.total)

        model = build_model(config.model, activation=config.activation, dropout=config.dropout, seed=config.seed)
        self.model = model.to(world.device)
        self.net = lay_out(self.model, world.device, amp)  # computes what the model does, with its parameters
        self.parameters = list(self.model.parameters())
        self.optimizer = build_optimizer(self.parameters, config)
        self.precision = Precision(amp, world.device, config.grad_clip)
        self.reducer = build_reducer(self.net, world, config.virtual_ranks, config.label_smoothing)
        self.ballots = BallotBox(world.device)
        self.wish, self.votes = Wish.NOTHING, torch.zeros(2, device=world.device)
        self.maps: Tensor | None = None  # of the epoch: how each digit is seen

        self.position = self.updates = 0
        self.ballots_read = 0
        self.loss_sum = 0.0
        self.train_seconds = self.epoch_seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.evaluation: Evaluation | None = None
        self.stopping = self.snapshot_wished = False

    def run(self) -> Result:
        self._warm_up()
        while not self.stopping:
            if self._epoch_is_over() and not self._is_evaluated():
                self._finish_epoch()
            if self.position >= self.target:
                break
            self._run_epoch()
        if self.stopping:
            self._save()
            return Result(self._state(), self.history, None, None)
        if self.evaluation is None:  # restored at the very end
            self.evaluation = evaluate(self.net, self.data.test, self.world)
        return Result(self._state(), self.history, self._figures(self.evaluation), self.evaluation)

    def _run_epoch(self) -> None:
        """From `position` to the end of its epoch, to the target, or to the step at which all ranks stop."""
        epoch, first = divmod(self.position, self.steps)
        stop = min(self.steps, self.target - epoch * self.steps)
        if first == 0:
            self.loss_sum = self.epoch_seconds = 0.0
        self.evaluation = None
        self.sampler.set_epoch(epoch)
        self.net.train()
        batches = self._batches(first)
        self.clock = time.perf_counter()
        if self.config.augment:
            maps = draw_maps(self.config.seed, epoch, len(self.train), self.config.augment)
            self.maps = maps.to(self.world.device)
        with self.log.progress(f"{self.config.model} {epoch + 1}/{self.config.epochs}", stop, first) as bar:
            for step, shards in zip(range(first, stop), batches, strict=False):
                self._step(shards, self.sampler.plan.count(step))
                bar.update()
                if self.stopping:
                    break
                if self._snapshot_is_due():
                    self._take_time()
                    self._save()
                    self.clock = time.perf_counter()
            self._take_time()

    def _take_time(self) -> None:
        """Waits for what was begun, and counts the seconds since `clock` was set as training."""
        self._read(self.ballots.drain())
        seconds = time.perf_counter() - self.clock
        self.train_seconds += seconds
        self.epoch_seconds += seconds

    def _step(self, shards: list[Shard], count: int) -> None:
        """One update from the global batch of `count` digits, of which `shards` are this rank's."""
        wish = self.wishes()
        if wish != self.wish:
            self.wish = wish
            self.votes.copy_(torch.tensor([bool(wish & Wish.STOP), bool(wish & Wish.SNAPSHOT)]))
        sums = self._gradient(shards, count)
        self.optimizer.lr = learning_rate(self.config, self.updates, self.total)
        self.updates += self.precision.step(self.optimizer, self.parameters)
        self.position += 1
        self._read(self.ballots.put(sums))

    def _gradient(self, shards: list[Shard], count: int) -> Tensor:
        """Leaves the gradient of the global batch's mean loss in the parameters. Returns the ballots' sum.

        Each shard contributes its *sum* of losses, divided by the global count: exact for uneven and empty ones.
        """
        self.reducer.start()
        weight = self.precision.scale(self.reducer.weight(count))
        for part, indices, images, labels in shards:
            if self.maps is not None:
                images = warp(images, self.maps[indices])
            if self.config.dropout:
                torch.manual_seed(seed_for(self.config.seed, "dropout", self.config.model, self.position, part))
            with self.precision.autocast():
                loss_sum, ballot = self.reducer.module(images, labels, self.votes)
            self.reducer.backward(loss_sum, weight, ballot)
        return self.reducer.finish()

    def _warm_up(self) -> None:
        """With shards of no digits: they have gradients, too, which come in the same order."""
        self.net.train()
        none = torch.empty(0, dtype=torch.int64, device=self.world.device)
        for _ in range(self.reducer.warm_ups):
            self._gradient([Shard(0, none, *self.train.batch(none))], 1)
        self.reducer.start()

    def _batches(self, first: int = 0) -> Iterator[list[Shard]]:
        """This rank's shards of each batch of the epoch that the sampler is set to, from step `first` on."""
        return load(self.train, self.sampler.batches(first, self.world.device))

    def _read(self, ballots: list[Ballot]) -> None:
        """Takes note of ballots, the same ones on every rank at the same step."""
        for ballot in ballots:
            self.ballots_read += 1
            if not math.isfinite(ballot.loss_sum):
                self._fail(f"the loss is {ballot.loss_sum}", self.ballots_read)
            self.loss_sum += ballot.loss_sum
            self.stopping |= ballot.stop > 0
            self.snapshot_wished |= ballot.snapshot > 0

    def _snapshot_is_due(self) -> bool:
        """Not at the end of an epoch, where there is one anyway."""
        every = self.config.snapshot_steps
        due = self.snapshot_wished or (every > 0 and self.position % every == 0)
        self.snapshot_wished = False
        return due and not self._epoch_is_over()

    def _epoch_is_over(self) -> bool:
        return self.position > 0 and (self.position % self.steps == 0 or self.position == self.target)

    def _is_evaluated(self) -> bool:
        return bool(self.history) and self.history[-1]["step"] == self.position

    def _images(self, position: int) -> int:
        """Digits trained on in the first `position` steps."""
        epochs, steps = divmod(position, self.steps)
        return epochs * len(self.train) + min(steps * self.config.batch_size, len(self.train))

    def _finish_epoch(self) -> None:
        """Evaluates, takes the epoch down in the history, saves."""
        self._compare_weights()
        for buffer in self.model.buffers():  # a batch norm's statistics are each rank's own: rank 0's are saved
            self.world.broadcast_(buffer)
        self.evaluation = evaluate(self.net, self.data.test, self.world)
        if not math.isfinite(self.evaluation.loss):
            self._fail(f"the test loss is {self.evaluation.loss}", self.position)
        epoch = math.ceil(self.position / self.steps)
        images = self._images(self.position) - self._images((epoch - 1) * self.steps)
        entry = {
            "epoch": epoch,
            "step": self.position,
            "train_loss": self.loss_sum / images,
            "test_loss": self.evaluation.loss,
            "test_accuracy": self.evaluation.accuracy,
            "lr": self.optimizer.lr,
            "images_per_second": images / self.epoch_seconds,
        }
        if self.held_out:
            validation = evaluate(self.net, self.held_out, self.world)
            entry |= {"val_loss": validation.loss, "val_accuracy": validation.accuracy}
        self.history.append(entry)
        self.log.epoch(self.config.model, self.config.epochs, entry)
        self._save()

    def _compare_weights(self) -> None:
        """Raises RunError if the ranks' weights have drifted apart: a broken link or memory, or a bug."""
        digests = self.world.gather(int(weights_sha256(dict(self.model.named_parameters()))[:15], 16))
        if strangers := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
            self._fail(f"the weights of rank {strangers[0]} differ from rank 0's", self.position)

    def _fail(self, what: str, position: int) -> NoReturn:
        epoch, step = divmod(position - 1, self.steps)
        where = f"{self.config.model}, epoch {epoch + 1}, step {step + 1}, lr {self.optimizer.lr:g}"
        raise RunError(f"{what} ({where})")

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}

    def _figures(self, evaluation: Evaluation) -> dict[str, Any]:
        figures = evaluation.describe() | {
            "parameters": sum(p.numel() for p in self.parameters),
            "epochs": math.ceil(self.position / self.steps),
            "steps": self.position,
            "train_loss": self.history[-1]["train_loss"],
            "train_seconds": self.train_seconds,
            "images_per_second": self._images(self.position) / self.train_seconds,
            "weights_sha256": weights_sha256(self._state()),
        }
        return figures | {name: value for name, value in self.history[-1].items() if name.startswith("val_")}

    def _save(self) -> None:
        """Has rank 0 save a snapshot of version 1, unless a weight is not finite."""
        state = self._state()
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            self._fail("a weight is not finite", self.position)
        if self.save is None or not self.world.is_main:
            return
        finished = self.position == self.target and self.evaluation is not None
        self.save(
            {
                "model": state,
                "train": {
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.precision.state_dict(),
                    "position": self.position,
                    "updates": self.updates,
                    "loss_sum": self.loss_sum,
                    "history": self.history,
                    "train_seconds": self.train_seconds,
                    "epoch_seconds": self.epoch_seconds,
                },
                "config": {"model": self.config.model, **self.config.result_options()},
                "dataset": self.data.describe(),
                "result": self._figures(self.evaluation) if finished else None,
            }
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Takes over the state of a snapshot that an equal fit saved."""
        train = snapshot["train"]
        self.model.load_state_dict(snapshot["model"])
        self.optimizer.load_state_dict(train["optimizer"])
        self.precision.load_state_dict(train["scaler"])
        self.position, self.updates = train["position"], train["updates"]
        self.ballots_read = self.position
        self.loss_sum = train["loss_sum"]
        self.train_seconds, self.epoch_seconds = train["train_seconds"], train["epoch_seconds"]
        self.history = list(train["history"])
        if self.history and self.history[-1]["step"] % self.steps and self.position < self.target:
            self.history.pop()  # of the part of an epoch at which --max-steps had stopped
