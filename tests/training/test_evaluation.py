"""Evaluation: against numpy, against a case by hand, and against itself at other world sizes."""

import numpy as np
import pytest
import torch
from digits import few_digits, random_digits
from ranks import run_ranks
from torch import nn

from distmnist.distributed.world import World
from distmnist.models.build import build_model
from distmnist.models.inference import batch_size
from distmnist.training.evaluation import Evaluation, evaluate


def by_hand(losses):
    return Evaluation(
        torch.zeros(len(losses), dtype=torch.int64), torch.tensor(losses), torch.zeros(len(losses)).long(), 10
    )


def test_predictions_losses_and_all_figures_agree_with_numpy():
    digits = random_digits(537)
    model = build_model("mlp", seed=4)
    with torch.no_grad():
        logits = model(digits.batch(torch.arange(537))[0]).double().numpy()
    labels = digits.labels.numpy()
    shifted = logits - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(537), labels]
    predictions = logits.argmax(1)
    confusion = np.zeros((10, 10), int)
    for label, prediction in zip(labels, predictions, strict=True):
        confusion[label, prediction] += 1

    found = evaluate(model, digits, 10, World())
    assert found.predictions.tolist() == predictions.tolist()
    np.testing.assert_allclose(found.losses.numpy(), losses, rtol=1e-4, atol=1e-5)
    assert found.count == 537 and found.correct == (predictions == labels).sum()
    assert found.accuracy == pytest.approx((predictions == labels).mean())
    assert found.loss == pytest.approx(losses.mean(), rel=1e-5)
    assert found.confusion.tolist() == confusion.tolist()
    right = np.diag(confusion)
    assert found.recall == found.per_class_accuracy == pytest.approx(right / confusion.sum(1))
    assert found.precision == pytest.approx(right / np.maximum(confusion.sum(0), 1))
    assert found.f1 == pytest.approx(2 * right / (confusion.sum(0) + confusion.sum(1)))
    assert found.balanced_accuracy == pytest.approx((right / confusion.sum(1)).mean())
    batches = [losses[start : start + 64].mean() for start in range(0, 537, 64)]
    assert found.notebook_loss == pytest.approx(sum(batches) / 537, rel=1e-5)


def test_the_published_loss_is_the_sum_of_the_means_of_batches_of_64_divided_by_the_count():
    evaluation = by_hand([1.0] * 64 + [2.0] * 64 + [5.0] * 2)
    assert evaluation.notebook_loss == pytest.approx((1 + 2 + 5) / 130)
    assert evaluation.loss == pytest.approx((64 + 128 + 10) / 130)


def test_sums_are_taken_in_double_precision():
    assert by_hand([1.0] + [1e-9] * 9999).loss == pytest.approx((1 + 9999e-9) / 10_000, rel=1e-9)


def test_a_class_without_images_counts_as_none_right_and_not_in_the_balanced_accuracy():
    evaluation = by_hand([0.5, 0.5])
    for per_class in (evaluation.recall, evaluation.precision, evaluation.f1):
        assert per_class == [1.0] + [0.0] * 9
    assert evaluation.balanced_accuracy == 1.0


def test_a_rare_class_weighs_as_much_as_a_common_one_in_the_balanced_accuracy():
    labels = torch.tensor([0] * 8 + [1] * 2)
    evaluation = Evaluation(torch.zeros(10, dtype=torch.int64), torch.ones(10), labels, 2)
    assert (evaluation.accuracy, evaluation.balanced_accuracy) == (0.8, 0.5)
    assert (evaluation.precision, evaluation.recall) == ([0.8, 0.0], [1.0, 0.0])
    assert evaluation.f1 == [pytest.approx(16 / 18), 0.0]


def test_what_is_kept_of_every_digit_is_small_and_in_the_data_sets_order():
    digits = random_digits(20)
    arrays = evaluate(build_model("mlp"), digits, 10, World()).arrays()
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
        "predictions": (np.uint8, (20,)),
        "losses": (np.float32, (20,)),
        "labels": (np.uint8, (20,)),
    }
    assert arrays["labels"].tolist() == digits.labels.tolist()


class Watched(nn.Module):
    """Notes the circumstances of its forward passes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.seen = set()

    def forward(self, images):
        logits = self.linear(images.flatten(1))
        self.seen.add((self.training, torch.is_grad_enabled(), logits.dtype))
        return logits


def test_a_net_is_evaluated_in_evaluation_mode_in_float32_and_without_gradients():
    model = Watched().train()
    evaluate(model, random_digits(10), 10, World())
    assert model.seen == {(False, False, torch.float32)}


def evaluation_of(world, count):
    found = evaluate(build_model("cnn", seed=2), few_digits(test=count).test, 10, world)
    return found.predictions, found.losses, found.labels, found.loss, found.notebook_loss


@pytest.mark.parametrize("count", [520, 3])
def test_any_world_size_finds_the_same_prediction_and_loss_for_every_digit(count):
    alone = evaluation_of(World(), count)
    assert len(alone[0]) == count
    for size in (2, 3):
        for found in run_ranks(evaluation_of, size, count):
            assert all(torch.equal(a, b) for a, b in zip(found[:3], alone[:3], strict=True))
            assert found[3:] == alone[3:]


def test_larger_images_are_evaluated_in_smaller_batches():
    assert [batch_size(shape) for shape in ((1, 28, 28), (3, 64, 64), (3, 224, 224), (3, 4000, 4000))] == [
        64,
        64,
        27,
        1,
    ]
