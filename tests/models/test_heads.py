import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import heads
from models.heads import HeadError, embed, load_head, predict, save_head
from models.methods.base import Head, Sizes
from models.methods.registry import METHODS, make_head
from tests.models.conftest import fitted_head
from tests.models.methods.problem import SIZES, examples

OPTIONS = {"hidden": 16, "dropout": 0.5}


def features(count: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(3.0, 2.0, (count, 12)).astype(np.float32))


def small_head() -> Head:
    torch.manual_seed(0)
    head = make_head("retrieval", SIZES, **OPTIONS)
    head.prepare(features(100), torch.zeros(100, dtype=torch.int64))
    return head.eval()


def saved(folder: Path, **description: Any) -> Head:
    """A head, written to the folder as one of the backbone sha256:a."""
    head = small_head()
    save_head(head, "retrieval", OPTIONS, folder, {"backbone_hash": "sha256:a", **description})
    return head


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_head_of_every_method_says_exactly_the_same(method: str, tmp_path: Path) -> None:
    head = fitted_head(method, examples(120)[0], SIZES)
    save_head(head, method, METHODS[method].options, tmp_path, {"backbone_hash": "sha256:a"})

    loaded = load_head(tmp_path, "sha256:a")

    state = head.state_dict()
    assert not any(module.training for module in loaded.module.modules())
    assert loaded.module.sizes == SIZES
    assert loaded.module.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in loaded.module.state_dict().items())
    unseen = examples(50, seed=1)[0].features[0]
    assert np.array_equal(predict(loaded.module, unseen), predict(head, unseen))
    assert np.array_equal(embed(loaded.module, unseen), embed(head, unseen))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_one_number_and_one_direction_an_image(method: str) -> None:
    head = fitted_head(method, examples(120)[0], SIZES)
    unseen = examples(50, seed=1)[0].features[0]

    uncertainty, embedding = predict(head, unseen), embed(head, unseen)

    assert uncertainty.shape == (50,)
    assert np.isfinite(uncertainty).all()
    assert np.ptp(uncertainty) > 0
    assert embedding.shape[0] == 50
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_of_any_method_depends_on_its_own_image_alone(method: str) -> None:
    head = fitted_head(method, examples(120)[0], SIZES)
    unseen = examples(20, seed=1)[0].features[0]

    together, alone = predict(head, unseen), [predict(head, row[None])[0] for row in unseen]

    assert np.allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert np.array_equal(predict(head, unseen), together)


@pytest.mark.parametrize("function", [predict, embed])
def test_many_images_are_scored_in_blocks(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head, values = small_head(), features(23).numpy()
    whole = function(head, values)

    monkeypatch.setattr(heads, "BLOCK", 5)

    assert whole.shape[0] == 23
    assert np.allclose(function(head, values), whole, rtol=1e-5)


@pytest.mark.parametrize("function", [predict, embed])
def test_a_prediction_is_made_in_evaluation_mode_for_either_precision(function: Any) -> None:
    head, values = small_head(), features(50).numpy()
    expected = function(head, values)
    head.train()

    found = function(head, values)

    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
    assert np.allclose(function(head, values.astype(np.float16)), expected, atol=1e-2)


def test_the_prediction_is_the_heads_and_the_embedding_the_backbones_direction() -> None:
    head, values = small_head(), features(20)

    with torch.inference_mode():
        expected = head(values).numpy()

    assert np.allclose(predict(head, values.numpy()), expected, rtol=1e-6)
    direction = values.numpy() / np.linalg.norm(values.numpy(), axis=1, keepdims=True)
    assert np.allclose(embed(head, values.numpy()), direction, atol=1e-6)


@pytest.mark.parametrize(("sizes", "layers"), [(Sizes(12, 12, 4), False), (Sizes(8, 12, 4), True)])
def test_a_loaded_head_knows_whether_it_sees_all_layers(sizes: Sizes, layers: bool, tmp_path: Path) -> None:
    save_head(make_head("retrieval", sizes, **OPTIONS), "retrieval", OPTIONS, tmp_path, {"backbone_hash": "sha256:a"})

    loaded = load_head(tmp_path, "sha256:a")

    assert loaded.layers == layers
    assert loaded.module.sizes == sizes
    assert embed(loaded.module, features(3).numpy()).shape == (3, sizes.dimension)


def test_the_description_is_kept_and_says_how_to_make_the_head_again(tmp_path: Path) -> None:
    saved(tmp_path, training={"loss": "mse", "epochs": np.int64(3)})

    description = load_head(tmp_path, "sha256:a").description

    assert description["training"] == {"loss": "mse", "epochs": 3}
    assert (description["method"], description["options"]) == ("retrieval", OPTIONS)
    assert description["sizes"] == {"dimension": 12, "features": 12, "classes": 4}


def test_options_of_the_head_outlive_another_default_of_its_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = saved(tmp_path)
    monkeypatch.setitem(METHODS["retrieval"].options, "hidden", 99)

    loaded = load_head(tmp_path, "sha256:a").module

    assert np.array_equal(predict(loaded, features(5).numpy()), predict(head, features(5).numpy()))


def test_a_head_of_another_backbone_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, backbone_hash="sha256:aaaaaaaaaaaaaaaa")

    with pytest.raises(HeadError, match=r"was trained behind backbone sha256:a+, not sha256:b+; train a head for this"):
        load_head(tmp_path, "sha256:bbbbbbbbbbbbbbbb")


@pytest.mark.parametrize("name", ["head.json", "head.safetensors"])
def test_a_missing_file_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    saved(tmp_path)
    (tmp_path / name).unlink()

    with pytest.raises(HeadError, match=rf"{name} is missing; make one with `candor train-head`"):
        load_head(tmp_path, "sha256:a")


@pytest.mark.parametrize("method", ["no-such-method", None])
def test_a_head_of_an_unknown_method_or_an_older_format_is_refused(method: str | None, tmp_path: Path) -> None:
    saved(tmp_path)
    description = json.loads((tmp_path / "head.json").read_text())
    del description["method"]
    (tmp_path / "head.json").write_text(json.dumps({**description, **({"method": method} if method else {})}))

    with pytest.raises(HeadError, match=rf"is of the unknown method {method!r}; train it again"):
        load_head(tmp_path, "sha256:a")


def test_the_description_on_disk_is_json(tmp_path: Path) -> None:
    saved(tmp_path)

    assert json.loads((tmp_path / "head.json").read_text())["backbone_hash"] == "sha256:a"
