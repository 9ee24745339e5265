"""The bench end to end, on tiny pictures and a backbone of random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.backbone import load_backbone, save_backbone
from models.errors import UserError
from scripts import bench_uncertainty
from scripts.bench.caches import degraded, open_cache
from scripts.bench.plan import KINDS, SEVERITIES, DataSet, Entrant, Plan, Run
from scripts.bench.runs import finished, ranking
from scripts.bench.summary import leads, seeds_of
from tests.offline import TORCH, packed_dataset, pictures, tiny_backbone, write_packed
from uncertainty import metrics
from uncertainty.neighbours import nearest_neighbour

METHODS = ["ce", "inverse-norm", "losspred", "retrieval"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone, images to train on, to report on with votes, and to know."""
    root = tmp_path_factory.mktemp("bench")
    save_backbone(tiny_backbone(), root / "backbone")
    for seed, name in enumerate(["train", "birds", "test", "validation", "inside"]):
        write_packed(root / f"{name}.npz", *pictures(12, seed, faintest=0.1))
    counts = np.random.default_rng(0).multinomial(20, [0.5, 0.1, 0.1, 0.1, 0.1, 0.1], size=72)
    counts[:30] = [20, 0, 0, 0, 0, 0]
    np.savez(root / "votes.npz", counts=counts)
    return root


def arguments(folder: Path, *more: str) -> list[str]:
    data = [f"test={folder}/test.npz", f"validation={folder}/validation.npz"]
    named = [part for each in data for part in ("--data", each)]
    sets = ["--validation", "validation", "--votes", f"test={folder}/votes.npz", "--inside", f"{folder}/inside.npz"]
    train = ["--train", f"{folder}/train.npz", "--train", f"{folder}/birds.npz@0-2"]
    size = ["--seeds", "2", "--epochs", "1", "--views", "2", "--sample", "24", "--scaling", "20", "--scaled", "ce"]
    compute = ["--processes", "1", "--device", TORCH, "--workers", "0", "--out", str(folder / "out")]
    backbone = ["--backbone", f"tiny={folder}/backbone"]
    return [*backbone, *train, *named, *sets, "--methods", *METHODS, *size, *compute, *more]


@pytest.fixture(scope="module")
def plan(folder: Path) -> Plan:
    """The plan of the finished bench."""
    bench_uncertainty.main(arguments(folder))
    return bench_uncertainty._plan(bench_uncertainty._arguments().parse_args(arguments(folder)))


@pytest.fixture(scope="module")
def results(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((plan.out / "results.json").read_text())
    return found


def test_every_method_and_set_has_a_row_and_the_report_is_there(plan: Plan, results: dict[str, Any]) -> None:
    rows = {(row["method"], row["set"]): row["seeds"] for row in results["methods"]}

    assert set(rows) == {(method, name) for method in METHODS for name in ("test", "validation")}
    assert rows["losspred", "test"] == 2
    assert rows["inverse-norm", "test"] == 1  # nothing by chance, nothing to repeat
    assert "| " in (plan.out / "report.md").read_text()
    assert {row["images"] for row in results["scaling"]} == {20}


def test_the_cost_is_the_processor_time_of_all_runs(plan: Plan, results: dict[str, Any]) -> None:
    each = [json.loads(path.read_text())["cpu_s"] for path in plan.out.glob("runs/**/figures.json")]

    assert results["cost"] == {"runs": 9, "cpu_s": pytest.approx(sum(each))}
    assert min(each) > 0
    assert "9 runs, " in (plan.out / "report.md").read_text()


def test_figures_are_those_of_the_scores_that_are_kept(plan: Plan, results: dict[str, Any]) -> None:
    labels = open_cache(plan, plan.entrants[0], "test").labels
    row = next(r for r in results["methods"] if (r["method"], r["set"]) == ("losspred", "test"))
    found = []
    for seed in (0, 1):
        with np.load(plan.run_folder(Run("tiny", "losspred", seed)) / "scores.npz") as arrays:
            assert arrays["test/uncertainty"].shape == labels.shape
            found.append(metrics.r_auroc(arrays["test/uncertainty"], arrays["test/correct"]))

    assert row["r_auroc"] == pytest.approx(np.mean(found))
    assert row["r_auroc_by_seed"] == pytest.approx(found)
    low, high = row["r_auroc_interval"]
    assert low <= row["r_auroc"] <= high
    assert {f"{kind}_{what}" for kind in KINDS for what in ("win_rate", "monotonicity")} <= row.keys()
    assert {"human_spearman", "ambiguity_auroc", "ood_auroc", "aurc", "augrc", "us_per_image", "train_s"} <= row.keys()


def test_a_method_that_leaves_the_embedding_alone_has_the_backbones_recall(plan: Plan, results: dict[str, Any]) -> None:
    cached = open_cache(plan, plan.entrants[0], "test")
    neighbour, _ = nearest_neighbour(np.asarray(cached.clean, dtype=np.float32))
    recall = metrics.recall_at_1(cached.labels, neighbour)

    by_method = {row["method"]: row["recall_at_1"] for row in results["methods"] if row["set"] == "test"}
    assert [by_method[method] for method in ("ce", "inverse-norm", "retrieval")] == pytest.approx([recall] * 3)


def test_the_scaling_part_trains_on_the_number_it_says(plan: Plan) -> None:
    assert all(finished(plan, Run("tiny", "ce", seed, images=20)) for seed in (0, 1))


def test_a_finished_bench_trains_nothing_again(plan: Plan, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in plan.out.glob("runs/**/figures.json")}

    bench_uncertainty.main(arguments(folder))

    assert len(before) == 9
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_same_seed_gives_the_same_scores(plan: Plan, folder: Path) -> None:
    path = plan.run_folder(Run("tiny", "retrieval", 1))
    with np.load(path / "scores.npz") as arrays:
        before = arrays["test/uncertainty"].copy()
    (path / "figures.json").unlink()

    bench_uncertainty.main(arguments(folder))

    with np.load(path / "scores.npz") as arrays:
        assert np.array_equal(arrays["test/uncertainty"], before)


def test_a_lead_is_the_difference_of_two_means(plan: Plan, results: dict[str, Any]) -> None:
    mean = {row["method"]: row["r_auroc"] for row in results["methods"] if row["set"] == "test"}

    found = leads(plan, plan.entrants[0], "retrieval", plan.sets[0])

    assert found.keys() == set(METHODS) - {"retrieval"}
    for other, lead in found.items():
        assert lead["value"] == pytest.approx(mean["retrieval"] - mean[other])
        assert lead["low"] <= lead["high"]


def test_what_is_not_finished_is_not_reported(plan: Plan) -> None:
    entrant = Entrant("tiny", plan.entrants[0].folder, plan.entrants[0].train)

    assert seeds_of(plan, entrant, "nivmf") == []


def test_report_only_runs_nothing(plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_uncertainty, "_measure", lambda *_: pytest.fail("measured"))
    (plan.out / "report.md").unlink()

    bench_uncertainty.main(arguments(folder, "--report-only"))

    assert (plan.out / "report.md").is_file()


def test_degraded_images_come_kind_by_kind_and_severity_by_severity(tmp_path: Path) -> None:
    dataset = packed_dataset(tmp_path, 2, seed=0)
    index = np.array([1, 4, 7])

    worse = degraded(dataset, index)

    assert len(worse) == len(KINDS) * len(SEVERITIES) * 3
    assert np.array_equal(worse.labels[:3], dataset.labels[index])
    small, full = worse.image(2 * 3 + 1).size, dataset.image(4).size  # the hardest crop of the second image
    assert small[0] == max(1, round(0.1 * full[0]))
    assert worse.fingerprint != dataset.fingerprint


def test_ranking_figures_are_those_of_the_metrics() -> None:
    uncertainty = np.array([0.1, 0.4, 0.2, 0.9], dtype=np.float32)
    correct = np.array([True, False, True, True])

    found = ranking(uncertainty, correct)

    assert found["recall_at_1"] == 0.75
    assert found["r_auroc"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--votes", "nowhere=v.npz"], "--votes for nowhere, but no --data of that name"),
        (["--validation", "nowhere"], "--validation names nowhere, but no --data has that name"),
    ],
)
def test_a_name_that_is_nobodys_is_refused(more: list[str], message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        bench_uncertainty.main(arguments(folder, *more))


def test_one_backbones_own_training_images_replace_the_common_ones() -> None:
    given = ["a.npz", "vit=b.npz", "vit=c.npz"]

    assert bench_uncertainty._training(given, "vit", {"vit", "resnet"}) == ("b.npz", "c.npz")
    assert bench_uncertainty._training(given, "resnet", {"vit", "resnet"}) == ("a.npz",)


def test_a_backbone_is_loaded_once_and_by_its_hash(plan: Plan, folder: Path) -> None:
    entrant = plan.entrants[0]

    assert entrant.backbone is entrant.backbone
    assert entrant.hash == load_backbone(folder / "backbone").hash
    assert DataSet("a", "b").validation is False
