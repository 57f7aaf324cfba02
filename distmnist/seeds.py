"""One seed for every random draw: a function of what is drawn for, so that no generator state is ever saved."""

import hashlib

import torch


def seed_for(*purpose: int | str) -> int:
    """A 32-bit seed from, say, (random seed, "order", epoch).

    Hashed, not added: seed 1 epoch 0 must not meet seed 0 epoch 1. 32 bits, because the CPU generator's `manual_seed`
    ignores the others.
    """
    plain = tuple(part if isinstance(part, str) else int(part) for part in purpose)  # numpy's int is written otherwise
    return int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=4).digest(), "big")


def generator(*purpose: int | str) -> torch.Generator:
    """A fresh CPU generator for `purpose`."""
    return torch.Generator().manual_seed(seed_for(*purpose))
