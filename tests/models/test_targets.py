import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.representations import Representations
from models.targets import (
    TARGETS,
    TargetError,
    classification_loss,
    instance_loss,
    probe_loss,
    retrieval_error,
    retrieval_loss,
    scaled_retrieval_loss,
)
from tests.offline import CLASSES, tiny_backbone


def cache(
    views: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], classes: Sequence[str] = CLASSES
) -> Representations:
    description = {"classes": list(classes)}
    return Representations(views, views.shape[2], labels.astype(np.int64), np.arange(len(labels)), description)


def with_layers(cached: Representations) -> Representations:
    """The same cache with statistics of layers beside the pooled pre-logits."""
    others = np.random.default_rng(9).normal(scale=100.0, size=(*cached.views.shape[:2], 5))
    features = np.concatenate([cached.views, others.astype(cached.views.dtype)], axis=2)
    return replace(cached, features=features)


def random_cache(images: int, views: int, seed: int, classes: int = 4, dimension: int = 6) -> Representations:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    centres = rng.normal(size=(classes, dimension))
    values = centres[labels] + rng.normal(size=(views, images, dimension))
    return cache(values.astype(np.float32), labels)


def unit(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))


def nearest_others(cached: Representations, number: int, query: int, k: int) -> list[tuple[float, int]]:
    """Cosine and index of the k clean images nearest to a view, without its own, nearest first."""
    found = [
        (float(unit(cached.views[number, query]) @ unit(cached.views[0, other])), other)
        for other in range(len(cached.labels))
        if other != query
    ]
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))[:k]


def retrieval_loss_by_loop(cached: Representations, k: int, temperature: float) -> np.ndarray[Any, Any]:
    losses = np.empty(cached.views.shape[:2])
    for number in range(len(cached.views)):
        for query in range(len(cached.labels)):
            nearest = nearest_others(cached, number, query, k)
            weights = [math.exp(cosine / temperature) for cosine, _ in nearest]
            same = [
                w
                for w, (_, other) in zip(weights, nearest, strict=True)
                if cached.labels[other] == cached.labels[query]
            ]
            losses[number, query] = -math.log(max(sum(same) / sum(weights), 1e-3))
    return losses


@pytest.mark.parametrize("k", [1, 5, 39, 100])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_retrieval_loss_is_the_loop_over_the_nearest_others(k: int, temperature: float) -> None:
    cached = random_cache(images=40, views=3, seed=k)

    found = retrieval_loss(cached, k=k, temperature=temperature)

    assert found.shape == (3, 40)
    assert found.dtype == np.float32
    assert np.allclose(found, retrieval_loss_by_loop(cached, k, temperature), atol=1e-4)
    assert found.std() > 0.1


def retrieval_error_by_loop(cached: Representations, k: int, rate: float) -> np.ndarray[Any, Any]:
    errors = np.empty(cached.views.shape[:2])
    for number in range(len(cached.views)):
        for query in range(len(cached.labels)):
            wrong, total, missed = 0.0, 0.0, 1.0
            for _, other in nearest_others(cached, number, query, k):
                total += rate * missed
                wrong += rate * missed * (cached.labels[other] != cached.labels[query])
                missed *= 1 - rate
            errors[number, query] = wrong / total
    return errors


@pytest.mark.parametrize("k", [1, 5, 39, 100])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_retrieval_error_is_the_loop_over_the_nearest_others(k: int, rate: float) -> None:
    cached = random_cache(images=40, views=3, seed=k)

    found = retrieval_error(cached, k=k, rate=rate)

    assert found.shape == (3, 40)
    assert found.dtype == np.float32
    assert np.allclose(found, retrieval_error_by_loop(cached, k, rate), atol=1e-5)
    assert found.std() > 0.1


def test_retrieval_error_is_the_share_of_random_galleries_that_answer_wrong() -> None:
    cached, rng = random_cache(images=12, views=1, seed=3), np.random.default_rng(0)
    order = [[other for _, other in nearest_others(cached, 0, query, 11)] for query in range(12)]
    wrong, answered = np.zeros(12), np.zeros(12)

    for kept in rng.random((4000, 12)) < 0.3:
        for query in range(12):
            answer = next((other for other in order[query] if kept[other]), None)
            answered[query] += answer is not None
            wrong[query] += answer is not None and cached.labels[answer] != cached.labels[query]

    assert retrieval_error(cached, rate=0.3)[0] == pytest.approx(wrong / answered, abs=0.04)


def test_an_image_does_not_find_itself() -> None:
    lonely = cache(np.eye(3, 4, dtype=np.float32)[None], np.array([0, 1, 2]))

    assert np.allclose(retrieval_loss(lonely), -math.log(1e-3))


def test_an_exact_duplicate_is_found_and_counts() -> None:
    rows = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2, 3]]
    cached = cache(rows[None], np.array([0, 0, 1, 2, 3, 3]))

    losses = retrieval_loss(cached, k=3)[0]

    assert losses[:2] == pytest.approx(0.0, abs=1e-4)  # the duplicate is of the same class
    assert losses[2:4] == pytest.approx(-math.log(1e-3), abs=1e-4)  # the duplicate is of another


def test_many_duplicates_of_one_image_change_nothing_but_their_number() -> None:
    rows = np.concatenate([np.tile(np.eye(3, dtype=np.float32)[:1], (60, 1)), np.eye(3, dtype=np.float32)[1:]])
    labels = np.concatenate([np.arange(60) % 2, [2, 2]])

    losses = retrieval_loss(cache(rows[None], labels), k=59)[0]

    share = np.where(np.arange(60) % 2 == 0, 29 / 59, 29 / 59)
    assert losses[:60] == pytest.approx(-np.log(share), abs=1e-4)


def test_an_augmented_view_does_not_find_its_own_clean_image() -> None:
    clean = np.eye(3, dtype=np.float32)
    cached = cache(np.stack([clean, clean]), np.array([0, 1, 2]))

    assert np.allclose(retrieval_loss(cached, k=2)[1], -math.log(1e-3))


def test_length_does_not_matter() -> None:
    cached = random_cache(images=30, views=2, seed=0)
    lengths = np.random.default_rng(1).uniform(0.1, 10, (2, 30, 1)).astype(np.float32)

    scaled = cache(cached.views * lengths, cached.labels)

    assert np.allclose(retrieval_loss(scaled), retrieval_loss(cached), atol=1e-3)


def test_half_precision_caches_give_nearly_the_same_targets() -> None:
    cached = random_cache(images=30, views=2, seed=0)

    half = cache(cached.views.astype(np.float16), cached.labels)

    assert np.allclose(retrieval_loss(half), retrieval_loss(cached), atol=0.05)


def instance_loss_by_loop(cached: Representations, k: int, temperature: float) -> np.ndarray[Any, Any]:
    views = cached.views.astype(np.float64)
    views /= np.linalg.norm(views, axis=2, keepdims=True)
    number_of_views, images = views.shape[:2]
    losses = np.empty((number_of_views, images))
    for number in range(number_of_views):
        searched = range(1, number_of_views) if number == 0 else [0]
        for query in range(images):
            found = [
                (float(views[number, query] @ views[other, image]), other, image)
                for other in searched
                for image in range(images)
            ]
            nearest = sorted(found, key=lambda each: (-each[0], each[1], each[2]))[:k]
            weights = [math.exp(cosine / temperature) for cosine, _, _ in nearest]
            own = [w for w, (_, _, image) in zip(weights, nearest, strict=True) if image == query]
            losses[number, query] = -math.log(max(sum(own) / sum(weights), 1e-3))
    return losses


@pytest.mark.parametrize("k", [1, 5, 39, 200])
@pytest.mark.parametrize("views", [2, 4])
def test_instance_loss_is_the_loop_over_the_nearest_of_all_images(k: int, views: int) -> None:
    cached = random_cache(images=40, views=views, seed=k)

    found = instance_loss(cached, k=k, temperature=0.1)

    assert found.shape == (views, 40)
    assert found.dtype == np.float32
    assert np.allclose(found, instance_loss_by_loop(cached, k, 0.1), atol=1e-4)
    assert found.std() > 0.1


def test_an_image_whose_views_are_its_own_alone_loses_nothing_as_an_instance() -> None:
    clean = np.eye(4, dtype=np.float32)
    cached = cache(np.stack([clean, clean, clean[[1, 0, 2, 3]]]), np.zeros(4, dtype=np.int64))

    losses = instance_loss(cached, k=2, temperature=0.01)

    assert losses[1] == pytest.approx(0.0, abs=1e-3)
    assert losses[2, :2] == pytest.approx(-math.log(1e-3), abs=1e-3)  # each finds the other
    assert losses[0, :2] == pytest.approx(math.log(2), abs=1e-3)  # one of its own views, and one of the other's
    assert losses[:, 2:] == pytest.approx(0.0, abs=1e-3)


def test_instances_have_no_labels_but_need_augmented_views() -> None:
    cached = random_cache(images=20, views=2, seed=0)

    assert np.array_equal(instance_loss(replace(cached, labels=np.zeros(20, dtype=np.int64))), instance_loss(cached))
    with pytest.raises(TargetError, match="needs augmented views; cache the images with --views 3"):
        instance_loss(replace(cached, features=cached.features[:1]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_classification_loss_is_the_cross_entropy_of_the_frozen_classifier(dtype: type) -> None:
    backbone = tiny_backbone()
    classifier = dict(backbone.module.named_modules())["fc"]
    views: np.ndarray[Any, Any] = np.random.default_rng(0).normal(size=(2, 12, 96)).astype(dtype)
    labels = np.arange(12) % 6

    found = classification_loss(cache(views, labels), backbone)

    with torch.inference_mode():
        logits = classifier(torch.from_numpy(views.astype(np.float32)))  # (v, n, c)
        expected = F.cross_entropy(logits.reshape(24, 6), torch.from_numpy(np.tile(labels, 2)), reduction="none")
    assert found.shape == (2, 12)
    assert np.allclose(found, expected.numpy().reshape(2, 12), atol=1e-6)


@pytest.mark.parametrize("folds", [2, 3])
def test_no_probe_has_seen_the_label_of_the_image_it_judges(folds: int) -> None:
    cached = random_cache(images=40, views=2, seed=0, classes=2)
    losses = probe_loss(cached, folds=folds)

    labels = cached.labels.copy()
    labels[7] = 1 - labels[7]
    other = probe_loss(replace(cached, labels=labels), folds=folds)

    assert np.exp(-losses[:, 7]) + np.exp(-other[:, 7]) == pytest.approx(np.ones(2), abs=1e-5)  # of one softmax
    assert not np.array_equal(np.delete(other, 7, axis=1), np.delete(losses, 7, axis=1))


def test_no_probe_has_seen_another_view_of_the_image_it_judges() -> None:
    cached = random_cache(images=40, views=3, seed=0)
    elsewhere = cached.features.copy()
    elsewhere[1:, 5] = 10.0

    losses, other = probe_loss(cached), probe_loss(replace(cached, features=elsewhere))

    assert other[0, 5] == losses[0, 5]
    assert (other[1:, 5] != losses[1:, 5]).all()
    assert not np.array_equal(np.delete(other, 5, axis=1), np.delete(losses, 5, axis=1))


def test_a_probe_loses_little_where_classes_are_apart_and_as_much_as_a_guess_where_they_are_not() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    noise = rng.normal(size=(1, 400, 64))
    apart = probe_loss(cache((noise + rng.normal(size=(4, 64))[labels]).astype(np.float32), labels))
    alike = probe_loss(cache(noise.astype(np.float32), labels))

    assert apart.mean() < 0.2
    assert alike.mean() > math.log(4) - 0.1


@pytest.mark.parametrize("classes", [CLASSES[::-1], CLASSES[:3], ("a", "b", "c", "d", "e", "f")])
def test_a_classifiers_loss_needs_its_own_classes_in_its_own_order(classes: tuple[str, ...]) -> None:
    other = cache(np.ones((1, 3, 96), dtype=np.float32), np.arange(3), classes)

    with pytest.raises(TargetError, match="needs the backbone's own classes; try --target probe or retrieval"):
        classification_loss(other, tiny_backbone())


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_of_the_pooled_representation_whatever_the_layers_say(target: str) -> None:
    cached = random_cache(images=30, views=2, seed=0, classes=6, dimension=96)

    found = TARGETS[target](with_layers(cached), tiny_backbone())

    assert found.shape == (2, 30)
    assert found.dtype == np.float32
    assert np.array_equal(found, TARGETS[target](cached, tiny_backbone()))


def test_the_scaled_retrieval_loss_is_in_units_of_its_spread() -> None:
    cached = random_cache(images=30, views=2, seed=0, classes=6, dimension=96)

    losses = retrieval_loss(cached)

    assert np.allclose(scaled_retrieval_loss(cached) * losses.std(), losses)
    assert 0.1 < losses.std() < 0.9 or losses.std() > 1.1  # so that the unit tells


def test_a_retrieval_loss_without_spread_stays_finite() -> None:
    lonely = cache(np.eye(4)[None], np.arange(4))

    assert np.isfinite(scaled_retrieval_loss(lonely)).all()


def test_targets_are_named_after_what_loses() -> None:
    backbone, cached = tiny_backbone(), random_cache(images=30, views=2, seed=0, classes=6, dimension=96)

    assert np.array_equal(TARGETS["retrieval"](cached, backbone), scaled_retrieval_loss(cached))
    assert np.array_equal(TARGETS["retrieval-error"](cached, backbone), retrieval_error(cached))
    assert np.array_equal(TARGETS["instance"](cached, backbone), instance_loss(cached))
    assert np.array_equal(TARGETS["probe"](cached, backbone), probe_loss(cached))
    assert np.array_equal(TARGETS["instance"](cached, backbone), instance_loss(cached))
    assert np.array_equal(TARGETS["classification"](cached, backbone), classification_loss(cached, backbone))
