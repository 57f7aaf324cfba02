"""Keras 3 on its JAX backend (KERAS_BACKEND=jax in the environment): `compile` and `fit` over arrays in memory."""

import keras
import numpy as np
import torch
from keras import layers

from benchmarks.peers.case import LR, Case, Run, remainder
from benchmarks.peers.layout import from_channels_last, to_channels_last
from distmnist.data.dataset import LabelledImages
from distmnist.distributed.world import World

STEPS_PER_EXECUTION = 16
"""Steps that Keras hands to XLA at a time: faster than its default of 1."""


def build(case: Case) -> keras.Model:
    keras.config.set_dtype_policy("mixed_bfloat16" if case.bf16 else "float32")
    net = [keras.Input((28, 28, 1))]
    if case.net == "cnn":
        for name, channels in (("conv1", 32), ("conv2", 64)):
            net += [
                layers.Conv2D(channels, 3, padding="same", activation="relu", name=name),
                layers.MaxPooling2D(),
            ]
    net += [
        layers.Flatten(),
        layers.Dense(128, activation="relu", name="fc1"),
        layers.Dense(64, activation="relu", name="fc2"),
        layers.Dense(10, name="fc3", dtype="float32"),
    ]
    return keras.Sequential(net)


def prepare(case: Case, digits: LabelledImages, _: World) -> Run:
    assert keras.backend.backend() == "jax"
    keras.utils.set_random_seed(case.seed)
    images, labels = digits.normalised(digits.images).permute(0, 2, 3, 1).numpy(), digits.labels.numpy()
    net = build(case)
    weights = to_channels_last(case.build().state_dict())
    net.compile(
        optimizer=keras.optimizers.Adam(LR, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        steps_per_execution=STEPS_PER_EXECUTION,
    )

    def fit(count: int) -> None:
        net.fit(images[:count], labels[:count], batch_size=case.batch, epochs=1, shuffle=True, verbose=0)

    net.optimizer.build(net.trainable_variables)
    variables = [*net.variables, *net.optimizer.variables]
    for name, arrays in weights.items():
        net.get_layer(name).set_weights(arrays)
    initial = [np.array(variable) for variable in variables]
    fit(remainder(case, len(digits), STEPS_PER_EXECUTION))
    for variable, value in zip(variables, initial, strict=True):
        variable.assign(value)

    def run() -> dict[str, torch.Tensor]:
        fit(len(digits))
        return from_channels_last({name: net.get_layer(name).get_weights() for name in weights})

    return run
