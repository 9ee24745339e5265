import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from models.backbone import Backbone, BackboneError, classify, load_backbone, represent, save_backbone
from models.bundle import DEFAULT_BUNDLE, BundleError, file_sha256, load_bundle
from models.graph import open_graph
from models.recover import recover_backbone
from tests.service.bundle_factory import make_bundle

ORIGINAL = DEFAULT_BUNDLE.with_name("default-fp32")  # which the default one was made of

WEIGHT = "module.layer2.0.conv1.weight"


@pytest.fixture(scope="module")
def recovered() -> Backbone:
    return recover_backbone(ORIGINAL)


def images(size: int) -> Any:
    """Noise, flat colours and steps between them: (12, size, size, 3) uint8."""
    rng = np.random.default_rng(7)
    noise = rng.integers(0, 256, (4, size, size, 3))
    flat = np.broadcast_to(rng.integers(0, 256, (4, 1, 1, 3)), (4, size, size, 3))
    steps = rng.integers(0, 256, (4, 2, 2, 3)).repeat(size // 2, axis=1).repeat(size // 2, axis=2)
    return np.concatenate([noise, flat, steps]).astype(np.uint8)


def answers(backbone: Backbone, pixels: Any) -> tuple[Any, Any]:
    """Embeddings and class entropy of a backbone in torch, in float64 from its logits on."""
    with torch.inference_mode():
        representation = represent(backbone.module, torch.from_numpy(pixels), backbone.preprocessing)
        probability = classify(backbone.module, representation).double().softmax(dim=1).numpy()
    embedding = representation.double().numpy()
    entropy = -(probability * np.log(probability)).sum(axis=1)
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True), entropy


def copied(folder: Path, change: Callable[[Any], None], **manifest: Any) -> Path:
    """A copy of the default bundle with another graph, whose hash the manifest states."""
    model = onnx.load(ORIGINAL / "model.onnx")
    change(model.graph)
    onnx.save(model, folder / "model.onnx")
    content = json.loads((ORIGINAL / "bundle.json").read_text())
    stated = {**content, "graph_sha256": file_sha256(folder / "model.onnx"), **manifest}
    (folder / "bundle.json").write_text(json.dumps(stated))
    return folder


def unchanged(graph: Any) -> None:
    pass


def initialiser(graph: Any, name: str) -> Any:
    return next(each for each in graph.initializer if each.name == name)


def user(graph: Any, name: str) -> Any:
    """The node that takes a value."""
    return next(node for node in graph.node if name in node.input)


def renamed(graph: Any, name: str, new: str) -> None:
    node = user(graph, name)
    node.input[list(node.input).index(name)] = new
    initialiser(graph, name).name = new


def test_embeddings_and_class_entropy_are_those_of_the_bundle(recovered: Backbone) -> None:
    pixels = images(recovered.preprocessing.size)
    graph = dict(zip(load_bundle(ORIGINAL).manifest.outputs, open_graph(ORIGINAL / "model.onnx")(pixels), strict=True))

    embedding, entropy = answers(recovered, pixels)

    assert embedding.shape == (12, 256)
    assert np.abs(embedding - graph["embedding"]).max() <= 1e-5
    assert np.abs(entropy - graph["class_entropy"]).max() <= 1e-4
    assert entropy.std() > 0.1
    assert (embedding @ embedding.T).min() < 0.9


def test_what_the_bundle_says_of_its_backbone_is_kept(recovered: Backbone) -> None:
    bundle = load_bundle(ORIGINAL)
    stated = bundle.manifest.training

    assert recovered.name == "resnet18"
    assert recovered.args == {"channels": (32, 64, 128, 256)}
    assert recovered.preprocessing == bundle.preprocessing
    assert recovered.classes == tuple(str(number) for number in range(160))
    assert recovered.training == {
        **stated.details,
        "data": stated.data,
        "licence": stated.licence,
        "bundle": bundle.hash,
    }
    assert not any(module.training for module in recovered.module.modules())


def test_a_saved_recovery_loads(recovered: Backbone, tmp_path: Path) -> None:
    save_backbone(recovered, tmp_path)

    assert load_backbone(tmp_path).hash == recovered.hash


def test_a_batch_norm_that_was_not_folded_is_taken_as_it_is(recovered: Backbone, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = {"weight": (0.5, 1.5), "bias": (-0.5, 0.5), "running_mean": (-0.5, 0.5), "running_var": (0.5, 1.5)}
    norm = {key: rng.uniform(*ends, 64).astype(np.float32) for key, ends in shapes.items()}
    names = [f"module.layer2.0.bn1.{key}" for key in shapes]

    def unfold(graph: Any) -> None:
        convolution = user(graph, WEIGHT)
        (output,) = convolution.output
        del convolution.input[2]
        graph.initializer.remove(initialiser(graph, f"{WEIGHT}_bias"))
        convolution.output[0] = "before_norm"
        made = helper.make_node("BatchNormalization", ["before_norm", *names], [output], epsilon=1e-5)
        graph.node.insert(list(graph.node).index(convolution) + 1, made)
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in zip(names, norm.values(), strict=True)
        )

    bundle = copied(tmp_path, unfold)
    found = recover_backbone(bundle)

    state = found.module.state_dict()
    assert all(np.array_equal(state[f"layer2.0.bn1.{key}"].numpy(), value) for key, value in norm.items())
    pixels = images(64)
    embedding, _ = answers(found, pixels)
    assert np.abs(embedding - open_graph(bundle / "model.onnx")(pixels)[0]).max() <= 1e-5
    assert np.abs(embedding - answers(recovered, pixels)[0]).max() > 1e-3


def test_a_graph_whose_bytes_changed_is_refused(tmp_path: Path) -> None:
    bundle = copied(tmp_path, unchanged, graph_sha256="0" * 64)

    with pytest.raises(BundleError, match=r"model\.onnx is not the graph bundle\.json describes"):
        recover_backbone(bundle)


def another_activation(graph: Any) -> None:
    next(node for node in graph.node if node.op_type == "Relu").op_type = "Abs"


def a_weight_that_is_nan(graph: Any) -> None:
    tensor = initialiser(graph, WEIGHT)
    tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), np.nan, dtype=np.float32), WEIGHT))


def a_doubled_representation(graph: Any) -> None:
    """Twice as long at the classifier, the same direction in the embedding."""
    classifier = user(graph, "module.fc.weight")
    graph.initializer.append(numpy_helper.from_array(np.float32(2.0).reshape(1), "two"))
    graph.node.insert(
        list(graph.node).index(classifier), helper.make_node("Mul", [classifier.input[0], "two"], ["doubled"])
    )
    classifier.input[0] = "doubled"


def another_temperature(graph: Any) -> None:
    """The same representation, other logits."""
    next(each for each in user(graph, "module.fc.weight").attribute if each.name == "alpha").f = 0.5


@pytest.mark.parametrize(
    "change",
    [another_activation, a_weight_that_is_nan, a_doubled_representation, another_temperature],
)
def test_a_graph_that_computes_something_else_is_refused(change: Callable[[Any], None], tmp_path: Path) -> None:
    bundle = copied(tmp_path, change)

    with pytest.raises(BackboneError, match=r"resnet18 disagrees with the graph on random images: \{'embedding'"):
        recover_backbone(bundle)


def test_a_manifest_with_other_preprocessing_is_refused(tmp_path: Path) -> None:
    stated = json.loads((ORIGINAL / "bundle.json").read_text())["preprocessing"]
    bundle = copied(tmp_path, unchanged, preprocessing={**stated, "mean": [0.5, 0.5, 0.45]})

    with pytest.raises(BackboneError, match="disagrees with the graph"):
        recover_backbone(bundle)


def test_missing_and_unknown_weights_are_named(tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        renamed(graph, "module.layer3.1.conv2.weight", "val_7")
        graph.initializer.append(helper.make_tensor("module.layer9.gamma", TensorProto.FLOAT, [1], [1.0]))

    with pytest.raises(
        BackboneError, match=r'(?s)Missing key.*"layer3\.1\.conv2\.weight".*Unexpected.*"layer9\.gamma"'
    ):
        recover_backbone(copied(tmp_path, change))


def test_a_folded_bias_that_is_missing_is_named_by_its_batch_norm(tmp_path: Path) -> None:
    def change(graph: Any) -> None:
        renamed(graph, f"{WEIGHT}_bias", "val_7")

    with pytest.raises(BackboneError, match=r'Missing key.*"layer2\.0\.bn1\.weight", "layer2\.0\.bn1\.bias"'):
        recover_backbone(copied(tmp_path, change))


@pytest.mark.parametrize("model", ["vit_tiny_patch16_224", "no_such_model"])
def test_a_graph_of_another_model_is_refused(model: str, tmp_path: Path) -> None:
    bundle = copied(tmp_path, unchanged, backbone={"name": model})

    with pytest.raises(BackboneError, match=f"holds no classifier .* of the timm model '{model}'"):
        recover_backbone(bundle)


def test_a_graph_that_no_timm_model_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"holds no classifier .* of the timm model 'patches'"):
        recover_backbone(make_bundle(tmp_path))


def test_a_bundle_in_lower_precision_names_the_one_it_was_made_of() -> None:
    with pytest.raises(
        BackboneError, match=f"in int8: give the bundle that it was made of, {load_bundle(ORIGINAL).hash[:19]}"
    ):
        recover_backbone(DEFAULT_BUNDLE)
