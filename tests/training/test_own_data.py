"""Images of any shape and number of classes: they are trained on, evaluated, resumed, and not exported by mistake."""

import dataclasses

import numpy as np
import pytest
import torch
from hooks import Keep

from distmnist import Dataset, LabelledImages, fit
from distmnist.checkpoint import storage
from distmnist.config import TrainConfig
from distmnist.errors import UsageError


def photographs(classes: int, shape: tuple[int, int, int] = (3, 12, 20)) -> Dataset:
    """Images whose mean brightness tells the class, three of each for training and one for testing."""
    draw = torch.Generator().manual_seed(0)
    mean, std = (0.5,) * shape[0], (0.25,) * shape[0]

    def part(copies: int) -> LabelledImages:
        labels = torch.arange(classes).repeat(copies)
        noise = torch.randint(-8, 9, (len(labels), *shape), generator=draw)
        images = (labels[:, None, None, None] * 255 // max(classes - 1, 1) + noise).clamp(0, 255)
        return LabelledImages(images.to(torch.uint8), labels, mean, std)

    return Dataset("photographs", "made up", part(3), part(1), tuple(f"class {number}" for number in range(classes)))


@pytest.mark.parametrize("fast", ["auto", "off"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_the_models_learn_colour_images_of_another_shape_and_number_of_classes(model, fast):
    config = TrainConfig(model=model, epochs=30, batch_size=4, augment=0.1, val_fraction=0.2, fast=fast, amp="off")
    result = fit(config, photographs(3))
    assert result.figures.test_accuracy == 1.0
    assert np.shape(result.figures.confusion) == (3, 3) and result.evaluation.arrays()["labels"].dtype == np.uint8


def test_a_fit_on_them_is_resumed_to_the_same_bits():
    views = {"augment": 1.0, "flip": True, "crop": True}
    config, saved = TrainConfig(model="cnn", epochs=2, batch_size=4, dropout=0.2, **views), []
    keep = Keep(lambda checkpoint: saved.append(storage.to_bytes(checkpoint)))
    whole = fit(config, photographs(3), callbacks=[keep], checkpoint_steps=2)
    first = storage.from_bytes(saved[0], "test")
    assert first.dataset == photographs(3).describe() and first.dataset.shape == (3, 12, 20)
    assert first.progress.global_step == 2
    again = fit(config, photographs(3), checkpoint=first)
    assert all(torch.equal(again.state[name], tensor) for name, tensor in whole.state.items())


def test_more_classes_than_a_byte_holds_are_stored_whole():
    result = fit(TrainConfig(model="mlp", epochs=1), photographs(300, (1, 8, 8)))
    arrays = result.evaluation.arrays()
    assert arrays["labels"].tolist() == list(range(300)) and arrays["predictions"].dtype == np.int32


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mean": (0.5,), "std": (0.25,)}, "must have 3 numbers"),
        ({"std": (0.25, 0.25, 0.0)}, "those of std above 0"),
    ],
)
def test_parts_that_do_not_fit_are_no_data_set(change, told):
    whole = photographs(3)
    with pytest.raises(UsageError, match="differ in shape, mean or std"):
        dataclasses.replace(whole, train=dataclasses.replace(whole.train, **change))
    with pytest.raises(UsageError, match=told):
        train, test = (dataclasses.replace(part, **change) for part in (whole.train, whole.test))
        dataclasses.replace(whole, train=train, test=test)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_without_a_class_is_no_data_set(label):
    whole = photographs(3)
    labels = torch.full_like(whole.test.labels, label)
    with pytest.raises(UsageError, match="labels must be from 0 to 2"):
        dataclasses.replace(whole, test=dataclasses.replace(whole.test, labels=labels))


def test_how_a_data_set_differs_is_said_by_the_first_thing_that_does():
    facts = photographs(3).describe()
    assert facts.difference(facts) is None
    assert "has another name" in facts.difference(dataclasses.replace(facts, name="others"))
    assert "another std: (0.25, 0.25, 0.25), not (1.0," in facts.difference(dataclasses.replace(facts, std=(1.0,) * 3))
