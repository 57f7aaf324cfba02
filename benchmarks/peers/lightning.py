"""Lightning: a LightningModule and a Trainer without logging, checkpoints or a progress bar."""

import logging
import warnings

import lightning
import torch
from torch.nn import functional

from benchmarks.peers import published
from benchmarks.peers.case import LR, Case, Run
from distmnist.data.dataset import LabelledImages
from distmnist.distributed.world import World


class Module(lightning.LightningModule):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        images, labels = batch
        return functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=LR)


def prepare(case: Case, digits: LabelledImages, _: World) -> Run:
    warnings.filterwarnings("ignore", module="lightning")  # that the loader has no workers: see benchmarks/README.md
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.manual_seed(case.seed)
    module, batches = Module(case.build()), published.loader(case, digits)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        precision="bf16-mixed" if case.bf16 else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    def run() -> dict[str, torch.Tensor]:
        trainer.fit(module, batches)
        return module.net.state_dict()

    return run
