"""The training loop of one net: `fit`. Reads top to bottom.

It knows nothing of process groups, signal handlers, files or exit codes: what it needs of them is handed in, so that a
one-process fit can run inside any larger job.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NoReturn, cast

import torch
from torch import Tensor, nn

from distmnist.checkpoint.record import Checkpoint, Epoch, ModelResult
from distmnist.checkpoint.storage import weights_sha256
from distmnist.config import TrainConfig, is_custom, to_json
from distmnist.data.augmentation import draw_maps, warp
from distmnist.data.dataset import Dataset, LabelledImages
from distmnist.data.loader import Shard, load, split
from distmnist.data.sampler import GlobalBatchSampler
from distmnist.data.splits import hold_out
from distmnist.distributed.world import World
from distmnist.errors import RunError
from distmnist.models.freezing import set_training
from distmnist.seeds import seed_for
from distmnist.training.batches import micro_batches
from distmnist.training.callbacks import Callback
from distmnist.training.evaluation import Evaluation, evaluate
from distmnist.training.loss import build_loss
from distmnist.training.model import prepare_model
from distmnist.training.optimizer import learning_rate, state_on_cpu
from distmnist.training.parts import choose_parts
from distmnist.training.precision import Precision, choose_amp
from distmnist.training.progress import Progress
from distmnist.training.requests import Request
from distmnist.training.stats import StatsReader, StepStats

ALIGNMENT = 64
"""Bytes to which torch aligns a tensor of its own on the CPU: gAlignment in c10/core/alignment.h."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a fit leaves. `figures`: the model's entry in summary.json; `evaluation`: every test image's prediction.

    Both are None when the fit was interrupted. `state`: the bare state dict, float32, on the CPU.
    """

    state: dict[str, Tensor]
    history: list[Epoch]
    figures: ModelResult | None
    evaluation: Evaluation | None


def fit(
    config: TrainConfig,
    data: Dataset,
    *,
    world: World | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: Checkpoint | None = None,
    checkpoint_steps: int = 0,
) -> Result:
    """Trains `config.model` on `data.train`, on from `checkpoint` if given, and evaluates it on `data.test`.

    All ranks of `world` call it alike; without one, this process trains alone, on the CPU. Callbacks are given
    checkpoints after every epoch, every `checkpoint_steps`, when a rank requested one, and before a requested stop.
    Raises RunError on all ranks if the loss or a weight is no longer finite; no callback is given such a state.
    """
    world = world or World()
    # What the training draws is seeded; the caller's generators are left as they were.
    with torch.random.fork_rng([world.device] if world.device.type == "cuda" else []):
        trainer = Trainer(config, data.to(world.device), world, callbacks, checkpoint_steps, checkpoint)
        try:
            return trainer.run()
        finally:
            for callback in callbacks:
                callback.on_fit_end()


class Trainer:
    """The state of one fit."""

    def __init__(
        self,
        config: TrainConfig,
        data: Dataset,
        world: World,
        callbacks: Sequence[Callback] = (),
        checkpoint_steps: int = 0,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        amp, _ = choose_amp(config.amp, world.device)
        self.config = config = dataclasses.replace(config, amp=amp)
        self.world, self.data, self.callbacks, self.checkpoint_steps = world, data, callbacks, checkpoint_steps
        self.train, self.held_out = hold_out(data, config.val_fraction)

        self.sampler = GlobalBatchSampler(
            self.train,
            batch_size=config.batch_size,
            num_replicas=world.size,
            rank=world.rank,
            seed=config.seed,
            parts=config.virtual_ranks,
        )
        self.progress = Progress(config, self.sampler.plan)

        classes, shape = len(data.class_names), data.train.shape
        prepared = prepare_model(
            config, shape, classes, len(self.train), self.sampler.parts, resumed=checkpoint is not None
        )
        self.initial_weights = checkpoint.initial_weights if checkpoint else prepared.initial_weights
        self.in_eval = prepared.in_eval
        model = prepared.model
        if config.sync_bn and world.size > 1:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(world.device)
        self.parameters = list(self.model.parameters())
        self.loss = build_loss(config, self.train.labels, classes)
        self.parts = choose_parts(self.model, config, world, amp, classes, self.loss, prepared.unused)
        self.net, self.optimizer, self.gradients = self.parts.net, self.parts.optimizer, self.parts.gradients
        self.precision = Precision(amp, world.device, config.grad_clip)
        self.stats_reader, self.stats_read = StatsReader(world.device), 0
        self.request, self.requests = Request.NOTHING, torch.zeros(2, device=world.device)
        self.maps: Tensor | None = None  # of the epoch: how each image is seen
        self.stopping = self.checkpoint_requested = False
        self.evaluation: Evaluation | None = None  # of the weights as they are
        if checkpoint:
            self.restore(checkpoint)

    def run(self) -> Result:
        for callback in self.callbacks:
            callback.on_fit_start(self.config, self.progress, self.parts.replacements)
        self.warm_up()
        while not self.stopping:
            if self.progress.epoch_is_over() and not self.progress.epoch_is_closed():
                self._finish_epoch()
            if self.progress.is_at_end():
                break
            self.run_epoch()
        if self.stopping:
            self._save()
            return Result(self._state(), self.progress.history, None, None)
        if self.evaluation is None:  # restored at the very end
            self.evaluation = self._evaluate(self.data.test)
        return Result(self._state(), self.progress.history, self._figures(self.evaluation), self.evaluation)

    def run_epoch(self) -> None:
        """Trains until the epoch ends, `max_steps` is reached, or all ranks stop."""
        epoch, first, stop = self.progress.part_of_epoch()
        if first == 0:
            self.progress.start_epoch()
        self.evaluation = None
        self.sampler.set_epoch(epoch)
        set_training(self.net, self.in_eval)
        batches = load(self.train, self.sampler.batches(first, self.world.device))
        for callback in self.callbacks:
            callback.on_epoch_start(self.progress)
        self.progress.start_clock()
        self.maps = self.draw_maps(epoch)
        for step, shards in zip(range(first, stop), batches, strict=False):
            self.step(shards, self.sampler.plan.count(step))
            if self.stopping:
                break
            if self._checkpoint_is_due():
                self._stop_clock()
                self._save()
                self.progress.start_clock()
        self._stop_clock()

    def _stop_clock(self) -> None:
        """Once the device has done what was begun."""
        self._read(self.stats_reader.drain())
        self.progress.stop_clock()

    def step(self, shards: list[Shard], count: int) -> None:
        """One optimizer step on a global batch of `count` images, of which `shards` are this rank's."""
        request = Request.NOTHING
        for callback in self.callbacks:
            request |= callback.request()
        if request != self.request:
            self.request = request
            self.requests.copy_(torch.tensor([bool(request & Request.STOP), bool(request & Request.CHECKPOINT)]))
        if self.parts.step:
            self.parts.step(self, shards, count)
        else:
            self.plain_step(shards, count)
        for callback in self.callbacks:
            callback.on_step_end(self.progress)

    def plain_step(self, shards: list[Shard], count: int) -> None:
        """The step in plain PyTorch; fast/step.py is the same with less around it.

        Each shard contributes its *sum* of losses, divided by the global count: exact for uneven and empty ones.
        """
        self.gradients.clear()
        for shard in shards:
            self.gradients.start_shard(len(shard.labels))
            self.seed_draws(shard)
            loss_sum = torch.zeros(1, device=self.world.device)
            micro_batches = self.cut(shard, count)
            for micro_batch in micro_batches:
                self.world.heartbeat.advance()
                images = self.augmented(micro_batch)
                with self.gradients.micro_batch(last=micro_batch is micro_batches[-1]):
                    with self.precision.autocast():
                        logits = self.gradients.module(images)
                        loss, cross_entropy = self.loss(logits, micro_batch.labels)
                    # A rank that hangs before here is behind those that wait in backward.
                    self.world.heartbeat.advance()
                    loss = self.precision.scale(loss * (self.gradients.average / count))
                    loss.backward()
                loss_sum += cross_entropy
            self.gradients.collect(torch.cat((loss_sum, self.requests)))
        stats = self.gradients.finish()

        self.optimizer.param_groups[0]["lr"] = self.learning_rate()
        updated = self.precision.step(self.optimizer, self.parameters)  # with fp16 the host waits for the device here
        self.progress.advance(updated)
        self.take_note(stats)  # here on the CPU; on CUDA once in 50 steps

    def cut(self, shard: Shard, count: int) -> list[Shard]:
        """The shard's micro-batches, whose number is the same for all shards of a global batch of `count` images."""
        return split(shard, micro_batches(count, self.sampler.parts, self.config.micro_batch_size))

    def draw_maps(self, epoch: int) -> Tensor | None:
        """How each training image is seen in the epoch, float32 [n, 2, 3], on the device; None: as it is."""
        config, (_, height, width) = self.config, self.train.shape
        if not (config.augment or config.flip or config.crop):
            return None
        maps = draw_maps(
            config.seed,
            epoch,
            len(self.train),
            config.augment,
            flip=config.flip,
            crop=config.crop,
            aspect=width / height,
        )
        return maps.to(self.world.device)

    def augmented(self, shard: Shard) -> Tensor:
        """The shard's images, float32 [n, C, H, W], as they are seen in this epoch."""
        images = shard.images if self.maps is None else warp(shard.images, self.maps[shard.indices])
        if images.data_ptr() % ALIGNMENT:
            return images.clone()  # kernels may round otherwise where images lie otherwise, as on another rank
        return images

    def seed_draws(self, shard: Shard) -> None:
        """A shard draws the same numbers whichever rank holds it, and in a run that is resumed."""
        if self.config.dropout or is_custom(self.config.model):
            key = self.config.model, self.progress.global_step, shard.part
            seed = seed_for(self.config.seed, "dropout", *key)
            torch.default_generator.manual_seed(seed)
            if self.world.device.type == "cuda":
                torch.cuda.manual_seed(seed)

    def learning_rate(self) -> float:
        """Of the next update."""
        return learning_rate(self.config, self.progress.optimizer_steps, self.progress.total)

    def take_note(self, stats: Tensor) -> None:
        """Takes a step's StepStats, float [3], summed over the ranks, on the device."""
        self._read(self.stats_reader.put(stats))

    def warm_up(self) -> None:
        """With two black images, which a batch norm needs; it leaves no trace in the model's buffers."""
        set_training(self.net, self.in_eval)
        before = [buffer.clone() for buffer in self.model.buffers()]
        images = torch.zeros(2, *self.train.shape, device=self.world.device)
        labels = torch.zeros(2, dtype=torch.int64, device=self.world.device)
        self.gradients.warm_up(images, labels, self.precision.autocast)
        for buffer, kept in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(kept)

    def _read(self, readable: list[StepStats]) -> None:
        """Acts on what became readable, the same on every rank at the same step."""
        for stats in readable:
            self.stats_read += 1
            if not math.isfinite(stats.loss_sum):
                self._fail(f"the loss is {stats.loss_sum}", self.stats_read)
            self.progress.loss_sum += stats.loss_sum
            self.stopping |= stats.stop > 0
            self.checkpoint_requested |= stats.checkpoint > 0

    def _checkpoint_is_due(self) -> bool:
        """Not at the end of an epoch, where there is one anyway."""
        every = self.checkpoint_steps
        due = self.checkpoint_requested or (every > 0 and self.progress.global_step % every == 0)
        self.checkpoint_requested = False
        return due and not self.progress.epoch_is_over()

    def _finish_epoch(self) -> None:
        """Evaluates, adds the epoch to the history, saves."""
        for callback in self.callbacks:
            callback.on_evaluation_start(self.progress)
        self._compare_weights()
        for buffer in self.model.buffers():  # a batch norm's statistics are each rank's own since its last step
            self.world.broadcast_(buffer)
        self.evaluation = self._evaluate(self.data.test)
        if not math.isfinite(self.evaluation.loss):
            self._fail(f"the test loss is {self.evaluation.loss}", self.progress.global_step)
        validation = self._evaluate(self.held_out) if self.held_out else None
        rate = cast(float, self.optimizer.param_groups[0]["lr"])
        epoch = self.progress.close_epoch(rate, self.evaluation, validation)
        for callback in self.callbacks:
            callback.on_epoch_end(epoch)
        self._save()

    def _evaluate(self, images: LabelledImages) -> Evaluation:
        return evaluate(self.net, images, len(self.data.class_names), self.world)

    def _compare_weights(self) -> None:
        """Raises RunError if the ranks' weights have drifted apart: a broken link or memory, or a bug."""
        if self.world.size == 1:
            return
        digests = self.world.gather(int(weights_sha256(dict(self.model.named_parameters()))[:15], 16))
        if strangers := [rank for rank, digest in enumerate(digests) if digest != digests[0]]:
            self._fail(f"the weights of rank {strangers[0]} differ from rank 0's", self.progress.global_step)

    def _fail(self, what: str, position: int) -> NoReturn:
        raise RunError(f"{what} ({self.config.model}, {self.progress.place(position)}, --lr {self.config.lr:g})")

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}

    def _figures(self, test: Evaluation) -> ModelResult:
        last = self.progress.history[-1]
        return ModelResult(
            test_accuracy=test.accuracy,
            test_loss=test.loss,
            notebook_test_loss=test.notebook_loss,
            correct=test.correct,
            count=test.count,
            per_class_accuracy=test.per_class_accuracy,
            confusion=test.confusion.tolist(),
            balanced_accuracy=test.balanced_accuracy,
            precision=test.precision,
            recall=test.recall,
            f1=test.f1,
            parameters=sum(p.numel() for p in self.parameters),
            epochs=self.progress.epochs,
            steps=self.progress.global_step,
            train_loss=last.train_loss,
            train_seconds=self.progress.train_seconds,
            images_per_second=self.progress.images_per_second,
            val_loss=last.val_loss,
            val_accuracy=last.val_accuracy,
            weights_sha256=weights_sha256(self._state()),
            initial_weights=self.initial_weights,
        )

    def _save(self) -> None:
        """Gives the callbacks a checkpoint, unless a weight is not finite."""
        state = self._state()
        if not all(bool(state[name].isfinite().all()) for name, _ in self.model.named_parameters()):
            self._fail("a weight is not finite", self.progress.global_step)
        takers = [callback for callback in self.callbacks if type(callback).on_checkpoint is not Callback.on_checkpoint]
        if not takers:
            return
        tested = self.evaluation if self.progress.is_at_end() else None
        checkpoint = Checkpoint(
            model=state,
            optimizer=state_on_cpu(self.optimizer),
            scaler=self.precision.state_dict(),
            progress=self.progress.state(),
            config={"model": self.config.model, **to_json(self.config.options())},
            dataset=self.data.describe(),
            result=self._figures(tested) if tested else None,
            fast=self.parts.replacements,
            initial_weights=self.initial_weights,
        )
        for callback in takers:
            callback.on_checkpoint(checkpoint)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over the state of a checkpoint that an equal fit saved."""
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.precision.load_state_dict(checkpoint.scaler)
        self.progress.restore(checkpoint.progress)
        self.stats_read = self.progress.global_step
