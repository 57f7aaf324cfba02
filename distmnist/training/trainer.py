"""The training loop of one net: `fit`. Reads top to bottom.

It knows nothing of process groups, signal handlers, files or exit codes: what it needs of them is handed in, so that a
one-process fit can run inside any larger job.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

from distmnist.checkpoint.storage import weights_sha256
from distmnist.config import Config
from distmnist.console import Log, Silence
from distmnist.data.augmentation import draw_maps, warp
from distmnist.data.datasets import Dataset, hold_out
from distmnist.data.loader import Shard, load
from distmnist.data.sampler import GlobalBatchSampler
from distmnist.distributed.world import World
from distmnist.errors import RunError
from distmnist.models.published import build_model
from distmnist.seeds import seed_for
from distmnist.training.evaluation import Evaluation, evaluate
from distmnist.training.loss import loss_sums
from distmnist.training.optimizer import learning_rate, state_on_cpu
from distmnist.training.parts import choose_parts
from distmnist.training.precision import Precision, choose_amp
from distmnist.training.progress import Record
from distmnist.training.requests import Wish, no_wish
from distmnist.training.stats import StatsReader, StepStats

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
    """The state of one fit."""

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
        self.record = Record(config, self.sampler.plan)

        model = build_model(config.model, activation=config.activation, dropout=config.dropout, seed=config.seed)
        self.model = model.to(world.device)
        self.parameters = list(self.model.parameters())
        self.parts = choose_parts(self.model, config, world, amp)
        self.net, self.optimizer, self.gradients = self.parts.net, self.parts.optimizer, self.parts.gradients
        self.precision = Precision(amp, world.device, config.grad_clip)
        self.stats_reader, self.stats_read = StatsReader(world.device), 0
        self.wish, self.requests = Wish.NOTHING, torch.zeros(2, device=world.device)
        self.maps: Tensor | None = None  # of the epoch: how each digit is seen
        self.stopping = self.snapshot_wished = False
        self.evaluation: Evaluation | None = None  # of the weights as they are

    def run(self) -> Result:
        self._warm_up()
        while not self.stopping:
            if self.record.epoch_is_over() and not self.record.epoch_is_closed():
                self._finish_epoch()
            if self.record.is_at_end():
                break
            self._run_epoch()
        if self.stopping:
            self._save()
            return Result(self._state(), self.record.history, None, None)
        if self.evaluation is None:  # restored at the very end
            self.evaluation = evaluate(self.net, self.data.test, self.world)
        return Result(self._state(), self.record.history, self._figures(self.evaluation), self.evaluation)

    def _run_epoch(self) -> None:
        """From where it is to the end of its epoch, to the target, or to the step at which all ranks stop."""
        epoch, first = divmod(self.record.position, self.record.steps)
        stop = min(self.record.steps, self.record.target - epoch * self.record.steps)
        if first == 0:
            self.record.start_epoch()
        self.evaluation = None
        self.sampler.set_epoch(epoch)
        self.net.train()
        batches = load(self.train, self.sampler.batches(first, self.world.device))
        self.record.start_clock()
        if self.config.augment:
            maps = draw_maps(self.config.seed, epoch, len(self.train), self.config.augment)
            self.maps = maps.to(self.world.device)
        with self.log.progress(f"{self.config.model} {epoch + 1}/{self.config.epochs}", stop, first) as bar:
            for step, shards in zip(range(first, stop), batches, strict=False):
                self.step(shards, self.sampler.plan.count(step))
                bar.update()
                if self.stopping:
                    break
                if self._snapshot_is_due():
                    self._stop_clock()
                    self._save()
                    self.record.start_clock()
            self._stop_clock()

    def _stop_clock(self) -> None:
        """Once the device has done what was begun."""
        self._read(self.stats_reader.drain())
        self.record.stop_clock()

    def step(self, shards: list[Shard], count: int) -> None:
        """One optimizer step on a global batch of `count` images, of which `shards` are this rank's."""
        wish = self.wishes()
        if wish != self.wish:
            self.wish = wish
            self.requests.copy_(torch.tensor([bool(wish & Wish.STOP), bool(wish & Wish.SNAPSHOT)]))
        if self.parts.step:
            self.parts.step(self, shards, count)
        else:
            self.plain_step(shards, count)

    def plain_step(self, shards: list[Shard], count: int) -> None:
        """The step in plain PyTorch; fast/step.py is the same with less around it.

        Each shard contributes its *sum* of losses, divided by the global count: exact for uneven and empty ones.
        """
        self.gradients.clear()
        for shard in shards:
            self.world.heartbeat.advance()
            images = self.augmented(shard)
            self.seed_dropout(shard)
            with self.precision.autocast():
                logits = self.gradients.module(images)
                loss, cross_entropy = loss_sums(logits, shard.labels, self.config.label_smoothing)
            self.world.heartbeat.advance()  # a rank that hangs before here is behind those that wait in backward
            loss = self.precision.scale(loss * (self.gradients.average / count))
            loss.backward()
            self.gradients.collect(torch.cat((cross_entropy.reshape(1), self.requests)))
        stats = self.gradients.finish()

        self.optimizer.param_groups[0]["lr"] = self.learning_rate()
        updated = self.precision.step(self.optimizer, self.parameters)  # with fp16 the host waits for the device here
        self.record.advance(updated)
        self.take_note(stats)  # here on the CPU; on CUDA once in 50 steps

    def augmented(self, shard: Shard) -> Tensor:
        """The shard's images, float32 [n, 1, 28, 28], as they are seen in this epoch."""
        return shard.images if self.maps is None else warp(shard.images, self.maps[shard.indices])

    def seed_dropout(self, shard: Shard) -> None:
        """A shard draws the same numbers whichever rank holds it, and in a run that is resumed."""
        if self.config.dropout:
            key = self.config.model, self.record.position, shard.part
            torch.manual_seed(seed_for(self.config.seed, "dropout", *key))

    def learning_rate(self) -> float:
        """Of the next update."""
        return learning_rate(self.config, self.record.updates, self.record.total)

    def take_note(self, stats: Tensor) -> None:
        """Takes a step's StepStats, float [3], summed over the ranks, on the device."""
        self._read(self.stats_reader.put(stats))

    def _warm_up(self) -> None:
        """With shards of no images: they have gradients, too, which come in the same order."""
        self.net.train()
        none = torch.empty(0, dtype=torch.int64, device=self.world.device)
        self.gradients.warm_up(*self.train.batch(none), self.precision.autocast)

    def _read(self, readable: list[StepStats]) -> None:
        """Acts on what became readable, the same on every rank at the same step."""
        for stats in readable:
            self.stats_read += 1
            if not math.isfinite(stats.loss_sum):
                self._fail(f"the loss is {stats.loss_sum}", self.stats_read)
            self.record.loss_sum += stats.loss_sum
            self.stopping |= stats.stop > 0
            self.snapshot_wished |= stats.snapshot > 0

    def _snapshot_is_due(self) -> bool:
        """Not at the end of an epoch, where there is one anyway."""
        every = self.config.snapshot_steps
        due = self.snapshot_wished or (every > 0 and self.record.position % every == 0)
        self.snapshot_wished = False
        return due and not self.record.epoch_is_over()

    def _finish_epoch(self) -> None:
        """Evaluates, adds the epoch to the history, saves."""
        self._compare_weights()
        for buffer in self.model.buffers():  # a batch norm's statistics are each rank's own since its last step
            self.world.broadcast_(buffer)
        self.evaluation = evaluate(self.net, self.data.test, self.world)
        if not math.isfinite(self.evaluation.loss):
            self._fail(f"the test loss is {self.evaluation.loss}", self.record.position)
        validation = evaluate(self.net, self.held_out, self.world) if self.held_out else None
        entry = self.record.close_epoch(self.optimizer.param_groups[0]["lr"], self.evaluation, validation)
        self.log.epoch(self.config.model, self.config.epochs, entry)
        self._save()

    def _compare_weights(self) -> None:
        """Raises RunError if the ranks' weights have drifted apart: a broken link or memory, or a bug."""
        digests = self.world.gather(int(weights_sha256(dict(self.model.named_parameters()))[:15], 16))
        if strangers := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
            self._fail(f"the weights of rank {strangers[0]} differ from rank 0's", self.record.position)

    def _fail(self, what: str, position: int) -> NoReturn:
        raise RunError(f"{what} ({self.config.model}, {self.record.place(position)}, --lr {self.config.lr:g})")

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}

    def _figures(self, evaluation: Evaluation) -> dict[str, Any]:
        size = {"parameters": sum(p.numel() for p in self.parameters)}
        return evaluation.describe() | size | self.record.figures() | {"weights_sha256": weights_sha256(self._state())}

    def _save(self) -> None:
        """Has rank 0 save a snapshot of version 1, unless a weight is not finite."""
        state = self._state()
        if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
            self._fail("a weight is not finite", self.record.position)
        if self.save is None or not self.world.is_main:
            return
        finished = self.record.is_at_end() and self.evaluation is not None
        self.save(
            {
                "model": state,
                "train": {
                    "optimizer": state_on_cpu(self.optimizer),
                    "scaler": self.precision.state_dict(),
                    **self.record.state_dict(),
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
        self.record.load_state_dict(train)
        self.stats_read = self.record.position
