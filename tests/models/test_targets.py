import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.representations import Representations
from models.targets import classification_loss, retrieval_loss
from tests.offline import tiny_backbone


def cache(views: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Representations:
    return Representations(views, labels.astype(np.int64), np.arange(len(labels)), {})


def random_cache(images: int, views: int, seed: int, classes: int = 4, dimension: int = 6) -> Representations:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=images)
    centres = rng.normal(size=(classes, dimension))
    values = centres[labels] + rng.normal(size=(views, images, dimension))
    return cache(values.astype(np.float32), labels)


def retrieval_loss_by_loop(cached: Representations, k: int, temperature: float) -> np.ndarray[Any, Any]:
    def unit(vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64))

    losses = np.empty(cached.views.shape[:2])
    for number in range(len(cached.views)):
        for query in range(len(cached.labels)):
            found = [
                (float(unit(cached.views[number, query]) @ unit(cached.views[0, other])), other)
                for other in range(len(cached.labels))
                if other != query
            ]
            nearest = sorted(found, key=lambda pair: (-pair[0], pair[1]))[:k]
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

    found = retrieval_loss(cached, k, temperature)

    assert found.shape == (3, 40)
    assert found.dtype == np.float32
    assert np.allclose(found, retrieval_loss_by_loop(cached, k, temperature), atol=1e-4)
    assert found.std() > 0.1


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


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_classification_loss_is_the_cross_entropy_of_the_frozen_classifier(dtype: type) -> None:
    backbone = tiny_backbone()
    classifier = dict(backbone.module.named_modules())["fc"]
    views: np.ndarray[Any, Any] = np.random.default_rng(0).normal(size=(2, 12, 96)).astype(dtype)
    labels = np.arange(12) % 6

    found = classification_loss(cache(views, labels), backbone.module)

    with torch.inference_mode():
        logits = classifier(torch.from_numpy(views.astype(np.float32)))  # (v, n, c)
        expected = F.cross_entropy(logits.reshape(24, 6), torch.from_numpy(np.tile(labels, 2)), reduction="none")
    assert found.shape == (2, 12)
    assert np.allclose(found, expected.numpy().reshape(2, 12), atol=1e-6)
