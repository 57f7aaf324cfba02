"""JAX: one `jit` that shuffles and scans over the whole epoch (`lax.scan`), digits on the device, Adam from optax."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from jax import lax

from benchmarks.peers.case import LR, Case, Run
from benchmarks.peers.layout import from_channels_last, to_channels_last
from distmnist.data.dataset import LabelledImages
from distmnist.distributed.world import World

OPTIMIZER = optax.adam(LR)


def logits(weights: Any, images: jax.Array) -> jax.Array:
    """Images [n, 28, 28, 1] -> logits [n, 10], in the dtype of the weights."""
    x = images
    for layer, (kernel, bias) in weights.items():
        if layer.startswith("conv"):
            x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            x = lax.reduce_window(jax.nn.relu(x + bias), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        else:
            x = x.reshape(len(x), -1) @ kernel + bias
            x = x if layer == "fc3" else jax.nn.relu(x)
    return x


def step(state: Any, images: jax.Array, labels: jax.Array, dtype: Any) -> Any:
    def loss(weights: Any) -> jax.Array:
        narrow = jax.tree.map(lambda array: array.astype(dtype), weights)
        answers = logits(narrow, images.astype(dtype)).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(answers, labels).mean()

    weights, moments = state
    updates, moments = OPTIMIZER.update(jax.grad(loss)(weights), moments)
    return optax.apply_updates(weights, updates), moments


@functools.partial(jax.jit, static_argnames=("batch", "dtype"))
def epoch(state: Any, key: jax.Array, images: jax.Array, labels: jax.Array, batch: int, dtype: Any) -> Any:
    order = jax.random.permutation(key, len(labels))
    whole = len(labels) // batch * batch
    rows = order[:whole].reshape(-1, batch)
    state, _ = lax.scan(lambda state, rows: (step(state, images[rows], labels[rows], dtype), None), state, rows)
    if whole < len(labels):
        state = step(state, images[order[whole:]], labels[order[whole:]], dtype)
    return state


def prepare(case: Case, digits: LabelledImages, _: World) -> Run:
    images = jnp.asarray(digits.normalised(digits.images).permute(0, 2, 3, 1).numpy())
    labels = jnp.asarray(digits.labels.numpy().astype("int32"))
    weights = jax.tree.map(jnp.asarray, to_channels_last(case.build().state_dict()))
    state = weights, OPTIMIZER.init(weights)
    dtype = jnp.bfloat16 if case.bf16 else jnp.float32
    arguments = state, jax.random.key(case.seed), images, labels
    compiled = epoch.lower(*arguments, batch=case.batch, dtype=dtype).compile()

    def run() -> dict[str, torch.Tensor]:
        trained, _ = compiled(*arguments)
        return from_channels_last(trained)

    return run
