import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.backbone import create_backbone, load_backbone
from models.bundle import load_bundle
from models.graph import open_graph
from models.methods.registry import METHODS
from models.preprocess import Preprocessing
from scripts import reproduce
from scripts.reproduce import Plan
from tests.offline import CLASSES, TORCH, pictures, write_packed

STAGES = [
    "teacher",
    "teacher cache",
    "backbone",
    "head cache",
    "head-small cache",
    "head",
    "evaluation",
    "class statistics",
    "reference",
    "calibration",
    "bundle",
]


def plan(data: Path, **changes: Any) -> Plan:
    (data / "tiny-imagenet-200").mkdir(exist_ok=True)
    options: dict[str, Any] = {"epochs": 3, "limit": None, "device": None, "workers": None, **changes}
    return Plan(data, Path("out"), **options)


def commands(planned: Plan) -> dict[str, list[str]]:
    return {name: arguments for name, _, arguments in planned.stages()}


def named(arguments: list[str], option: str) -> list[str]:
    """Every value of an option."""
    return [value for key, value in itertools.pairwise(arguments) if key == option]


def test_stages_run_in_order_and_each_reads_what_an_earlier_one_wrote(tmp_path: Path) -> None:
    written: set[str] = set()
    order = []
    for name, _, arguments in plan(tmp_path).stages():
        order.append(name)
        read = [
            value
            for option in ("--backbone", "--head", "--cache", "--teacher", "--reference", "--calibration")
            for value in named(arguments, option)
        ]
        assert set(read) <= written, name
        (out,) = named(arguments, "--out")
        assert out not in written
        written.add(out)

    assert order == STAGES
    assert written >= {"out/backbone", "out/head", "out/bundle"}


def test_every_argument_is_one_its_stage_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, run, arguments in plan(tmp_path, limit=5, device="cpu", workers=0).stages():
        with pytest.raises(SystemExit) as raised:
            run([*arguments, "--no-such-option"])
        assert raised.value.code == 2, name
        assert capsys.readouterr().err.rstrip().endswith("unrecognized arguments: --no-such-option"), name


def test_classes_to_report_on_are_used_for_nothing_else(tmp_path: Path) -> None:
    for name, arguments in commands(plan(tmp_path)).items():
        specs = " ".join([*named(arguments, "--data"), *named(arguments, "--validation")])
        assert (":test" in specs) == (name == "evaluation")
        assert (":validation" in specs) == (name == "bundle")


def test_shards_of_the_backbone_and_of_the_head_are_apart(tmp_path: Path) -> None:
    found = commands(plan(tmp_path))

    assert "train-[0-7].npz" in named(found["backbone"], "--data")[0]
    assert named(found["teacher cache"], "--data") == named(found["backbone"], "--data")
    assert "train-[89].npz" in named(found["head cache"], "--data")[0]
    small = named(found["head-small cache"], "--data")[0]
    assert "train-9.npz" in small
    assert small.endswith(":upstream~32")


def test_birds_to_learn_from_are_of_other_species_than_those_to_report_on(tmp_path: Path) -> None:
    assert "head-birds cache" not in commands(plan(tmp_path))
    (tmp_path / "cub100").mkdir()
    (tmp_path / "cub100" / "cub100-128px.npz").write_bytes(b"")

    found = commands(plan(tmp_path))

    birds = f"{tmp_path}/cub100/cub100-128px.npz"
    assert named(found["head-birds cache"], "--data") == [f"{birds}@0-49"]
    assert f"cub-50-99={birds}@50-99" in named(found["evaluation"], "--data")


@pytest.mark.parametrize("birds", [False, True])
def test_the_head_learns_from_every_cache_made_for_it_and_finds_what_it_needs_there(
    birds: bool, tmp_path: Path
) -> None:
    (tmp_path / "cub100").mkdir()
    if birds:
        (tmp_path / "cub100" / "cub100-128px.npz").write_bytes(b"")
    found = commands(plan(tmp_path))
    made = [name for name in found if name.startswith("head") and name.endswith("cache")]

    assert len(made) == 2 + birds
    assert named(found["head"], "--cache") == [named(found[name], "--out")[0] for name in made]
    needed = METHODS[named(found["head"], "--method")[0]].layers
    assert len({tuple(named(found[name], "--views")) for name in made}) == 1
    for name in (*made, "class statistics", "reference"):
        assert ("--layers" in found[name]) >= needed, name


def test_a_backbone_that_is_given_is_not_trained(tmp_path: Path) -> None:
    found = commands(plan(tmp_path, backbone=tmp_path / "mine"))

    assert list(found) == STAGES[3:]
    for name, arguments in found.items():
        assert named(arguments, "--backbone") == [str(tmp_path / "mine")], name


def test_splits_do_not_overlap_and_cover_200_classes() -> None:
    splits = json.loads(reproduce.SPLITS.read_text())

    sizes = {key: len(classes) for key, classes in splits.items() if isinstance(classes, list)}
    assert sizes == {"upstream": 160, "validation": 20, "test": 20}
    assert len({c for key in sizes for c in splits[key]}) == 200


def test_only_data_that_is_there_is_reported_on(tmp_path: Path) -> None:
    assert len(named(commands(plan(tmp_path))["evaluation"], "--data")) == 1
    for name in ("cub100", "cifar10"):
        (tmp_path / name).mkdir()

    found = commands(plan(tmp_path))["evaluation"]

    assert [value.partition("=")[0] for value in named(found, "--data")] == [
        "tiny-imagenet-test",
        "cub-50-99",
        "cifar10",
    ]
    assert f"cub-50-99={tmp_path}/cub100/cub100-128px.npz@50-99" in found
    assert "--votes" not in found


def test_votes_are_used_with_the_images_they_are_on(tmp_path: Path) -> None:
    (tmp_path / "human-labels").mkdir()
    votes = tmp_path / "human-labels" / "cifar10h-test.npz"
    votes.write_bytes(b"")
    assert "--votes" not in commands(plan(tmp_path))["evaluation"]

    (tmp_path / "cifar10").mkdir()

    assert named(commands(plan(tmp_path))["evaluation"], "--votes") == [f"cifar10={votes}"]


def test_the_budget_reaches_every_stage_that_has_one(tmp_path: Path) -> None:
    found = commands(plan(tmp_path, epochs=7, limit=2000, device="cuda", workers=0))

    assert named(found["backbone"], "--epochs") == ["7"]
    limited = ("teacher cache", "backbone", "head cache", "head-small cache", "evaluation", "class statistics")
    for name in (*limited, "reference"):
        assert named(found[name], "--limit") == ["2000"], name
        assert named(found[name], "--device") == ["cuda"], name
        assert named(found[name], "--workers") == ["0"], name


def test_without_the_data_the_message_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match="tiny-imagenet-200 does not exist; --data must name the folder that holds tiny"
    ):
        reproduce.main(["--data", str(tmp_path), "--out", str(tmp_path / "out")])


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the real layout: a few stripes for photos, a teacher of random weights, a tiny backbone."""
    data = tmp_path / "data"
    for folder in ("tiny-imagenet-200", "weights-mobilenetv2_100"):
        (data / folder).mkdir(parents=True)
    for shard in range(10):
        write_packed(data / "tiny-imagenet-200" / f"train-{shard}.npz", *pictures(3, seed=shard, faintest=0.0))
    write_packed(data / "tiny-imagenet-200" / "val.npz", *pictures(5, seed=99, faintest=0.0))
    teacher = create_backbone("mobilenetv2_100", classes=("any",) * 1000, preprocessing=Preprocessing(160))
    state: dict[str, Any] = {key: value.numpy() for key, value in teacher.module.state_dict().items()}
    np.savez(data / "weights-mobilenetv2_100" / "state_dict_int8.npz", **state)
    splits = {"upstream": CLASSES[:3], "validation": CLASSES[3:4], "test": CLASSES[3:]}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    monkeypatch.setattr(reproduce, "SPLITS", tmp_path / "splits.json")
    monkeypatch.setattr(reproduce, "BACKBONE", ["test_resnet", "--size", "32", "--batch-size", "12"])
    return data


def test_the_whole_chain_ends_in_a_bundle_that_answers(stand_in: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    reproduce.main(
        [
            "--data",
            str(stand_in),
            "--out",
            str(out),
            "--epochs",
            "1",
            "--limit",
            "36",
            "--device",
            TORCH,
            "--workers",
            "0",
        ]
    )

    bundle = load_bundle(out / "bundle")
    backbone = load_backbone(out / "backbone")
    assert bundle.manifest.name == "tiny"
    assert bundle.manifest.backbone.name == "test_resnet"
    assert bundle.manifest.command.startswith("candor reproduce --epochs 1")
    assert backbone.training["teacher"] == reproduce.TEACHER_NOTE
    assert backbone.training["images"] == 36
    assert bundle.manifest.metrics["evaluation"].keys() == {"tiny-imagenet-test"}
    embedding, uncertainty, _, _ = open_graph(bundle.graph_path)(np.zeros((2, 32, 32, 3), dtype=np.uint8))
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1.0, atol=1e-5)
    assert ((bundle.uncertainty_percentile(uncertainty) >= 0) & (bundle.uncertainty_percentile(uncertainty) <= 1)).all()
