import itertools
import json
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import candor
from models.backbone import BackboneError, load_backbone, save_backbone
from models.bundle import load_bundle
from models.datasets import open_dataset
from models.graph import open_graph
from models.heads import HeadError, load_head, predict
from models.methods.registry import METHODS
from models.preprocess import preprocess
from models.representations import load_representations
from models.targets import TargetError
from scripts import cache_representations, export, fit
from scripts.fitting.ledger import run_stages
from scripts.fitting.plan import AUGMENTED, Plan
from scripts.fitting.split import FitError, divide, keep_split
from tests.models.test_pvu import ARGS, MODEL, published_state
from tests.offline import TORCH, pictures, tiny_backbone, write_folder

TWELVE = tuple(f"class {number:02d}" for number in range(12))


@dataclass(frozen=True)
class Home:
    """A user's folders: a backbone, images of twelve classes, of six, and of none, and a folder for each result."""

    root: Path

    def arguments(self, data: str, *more: str, out: str = "") -> list[str]:
        given = ["--data", str(self.root / data), "--out", str(self.out(out or data)), *more]
        backbone = [] if "--backbone" in more else ["--backbone", str(self.root / "backbone")]
        return [*backbone, *given, "--device", TORCH, "--workers", "0"]

    def out(self, name: str) -> Path:
        return self.root / f"out-{name}"

    def results(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out(name) / "evaluation" / "results.json").read_text())
        return found

    def split(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out(name) / "split.json").read_text())
        return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("home")
    save_backbone(tiny_backbone(), root / "backbone")
    images, labels = pictures(20, seed=0, faintest=0.0)
    write_folder(root / "twelve", images, labels + 6 * (np.arange(labels.size) % 12 >= 6), TWELVE)
    write_folder(root / "six", *pictures(8, seed=1, faintest=0.0))
    (root / "none").mkdir()
    for number, image in enumerate(pictures(8, seed=2, faintest=0.3)[0]):
        image.save(root / "none" / f"{number:03d}.jpg")
    return Home(root)


@pytest.fixture(scope="module")
def classes(home: Home) -> Home:
    """With a bundle of the twelve classes."""
    fit.main(home.arguments("twelve"))
    return home


@pytest.fixture(scope="module")
def flat(home: Home) -> Home:
    """With a bundle of the images without classes."""
    fit.main(home.arguments("none"))
    return home


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """In place of the export, which takes seconds: the arguments it would have had."""
    given: list[list[str]] = []
    monkeypatch.setattr(export, "main", lambda arguments: given.append(list(arguments)))
    return given


def options(home: Home, data: str, *more: str, out: str = "") -> Any:
    found = fit._arguments().parse_args(home.arguments(data, *more, out=out))
    found.name = found.name or found.out.name
    return found


def planned(home: Home, data: str, *more: str, out: str = "") -> Plan:
    """The plan of a command, with its split written."""
    given = options(home, data, *more, out=out)
    dataset = open_dataset(given.data)
    keep_split(divide(dataset, given.seed), dataset, given.seed, given.out / "split.json")
    return Plan(given, divide(dataset, given.seed))


def written(folder: Path) -> dict[str, int]:
    """When each file was last written, but for the report."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {"report.md", "split.json"}
    }


@pytest.mark.parametrize(("fixture", "data"), [("classes", "twelve"), ("flat", "none")])
def test_the_bundle_loads_and_answers_as_torch_does(fixture: str, data: str, request: pytest.FixtureRequest) -> None:
    home: Home = request.getfixturevalue(fixture)
    bundle = load_bundle(home.out(data) / "bundle")
    backbone = load_backbone(home.root / "backbone")
    dataset = open_dataset(str(home.root / data))
    pixels = np.stack([preprocess(dataset.image(i), backbone.preprocessing) for i in range(6)])

    embedding, uncertainty, novelty, entropy = open_graph(bundle.graph_path)(pixels)

    cached = load_representations(home.out(data) / "training-cache", backbone.hash)
    assert bundle.manifest.name == f"out-{data}"
    assert np.allclose(np.linalg.norm(embedding, axis=1), 1.0, atol=1e-5)
    assert all(np.isfinite(each).all() for each in (uncertainty, novelty, entropy))
    assert len(np.unique(uncertainty)) == 6
    rows = np.flatnonzero(np.isin(home.split(data)["training"], range(6)))
    positions = np.array(home.split(data)["training"])[rows]
    head = load_head(home.out(data) / "head", backbone.hash).module
    assert np.allclose(predict(head, cached.features[0, rows]), uncertainty[positions], atol=1e-4)
    assert bundle.manifest.reference.count == len(home.split(data)["reference"])
    assert "kept from the head" in bundle.manifest.reference.dataset


def test_classes_that_are_reported_on_are_seen_by_nothing_else(classes: Home) -> None:
    split, out = classes.split("twelve"), classes.out("twelve")
    backbone = load_backbone(classes.root / "backbone")
    caches = {name: load_representations(out / f"{name}-cache", backbone.hash) for name in ("training", "reference")}

    unseen = set(split["unseen_classes"])
    assert len(unseen) == 5
    for name, cached in caches.items():
        assert unseen.isdisjoint(cached.description["classes"])
        assert cached.index.size == len(split[name])
    assert len(caches["training"].views) == 1 + AUGMENTED
    found = classes.results("twelve")["data"]["unseen-classes"]
    assert (found["images"], found["classes"]) == (len(split["evaluation"]), 5)
    assert list(found["scores"]) == ["head", "class_entropy", "max_probability", "inverse_norm"]


def test_the_report_has_the_figures_the_pictures_and_the_way_to_serve(classes: Home) -> None:
    out = classes.out("twelve")
    text = (out / "report.md").read_text()

    found = classes.results("twelve")["data"]["unseen-classes"]
    row = found["scores"]["head"]
    low, high = row["r_auroc_interval"]
    assert f"R@1 {found['recall_at_1']:.3f} [" in text
    assert f"| **head** | {row['r_auroc']:.3f} [{low:.3f}, {high:.3f}] |" in text
    assert f"candor serve --bundle {out / 'bundle'}" in text
    for name in ("risk-coverage", "montage"):
        assert f"](evaluation/unseen-classes-{name}.png)" in text
        assert (out / "evaluation" / f"unseen-classes-{name}.png").is_file()
    evaluated = load_bundle(out / "bundle").manifest.metrics["evaluation"]["unseen-classes"]
    assert evaluated["r_auroc"] == row["r_auroc"]


def test_a_second_call_does_nothing_twice(classes: Home, caplog: pytest.LogCaptureFixture) -> None:
    before = written(classes.out("twelve"))

    with caplog.at_level("INFO", logger="candor"):
        fit.main(classes.arguments("twelve"))

    stages = [line for line in caplog.messages if line.startswith("==")]
    assert len(stages) == 7
    assert all(line.endswith("done before") for line in stages)
    assert written(classes.out("twelve")) == before


def test_images_that_changed_since_are_refused(classes: Home, tmp_path: Path) -> None:
    changed = Home(tmp_path)
    os.symlink(classes.root / "backbone", tmp_path / "backbone")
    write_folder(tmp_path / "six", *pictures(6, seed=1))
    planned(changed, "six")
    write_folder(tmp_path / "six", *pictures(7, seed=1))

    with pytest.raises(FitError, match=r"split\.json was made with another fingerprint.*choose another --out"):
        fit.main(changed.arguments("six"))


def test_without_classes_a_view_is_to_find_its_own_image(flat: Home) -> None:
    out = flat.out("none")
    head = json.loads((out / "head" / "head.json").read_text())
    found = flat.results("none")["data"]["instances"]

    assert head["training"]["target"] == "instance"
    assert (found["images"], found["views"], found["gallery"]) == (9, AUGMENTED, 48)
    text = (out / "report.md").read_text()
    assert "These images have no classes, so what is measured is whether a view finds its own image" in text
    assert "sort some of them into class folders" in text
    for name in ("risk-coverage", "montage"):
        assert (out / "evaluation" / f"instances-{name}.png").is_file()


def test_an_imported_head_is_used_as_it_is(classes: Home, no_export: list[list[str]]) -> None:
    head = classes.out("twelve") / "head"
    plan = planned(classes, "six", "--head", str(head), out="imported")

    run_stages(plan.stages(), classes.out("imported") / "stages.json", plan.given())

    assert not (classes.out("imported") / "head").exists()
    assert plan.given()[str(head / "head.safetensors")]
    cached = load_representations(classes.out("imported") / "training-cache", load_backbone(plan.backbone).hash)
    assert len(cached.views) == 1
    assert classes.results("imported")["data"]["seen-classes"]["classes"] == 6
    (exported,) = no_export
    assert exported[exported.index("--head") + 1] == str(head)
    assert "--evaluation" in exported


def test_a_head_of_another_backbone_is_refused_before_any_image_is_read(classes: Home, tmp_path: Path) -> None:
    save_backbone(tiny_backbone(seed=1), tmp_path / "other")
    given = ["--backbone", str(tmp_path / "other"), "--head", str(classes.out("twelve") / "head")]

    with pytest.raises(HeadError, match="was trained behind backbone"):
        fit.main(classes.arguments("six", *given, out="refused"))

    assert not (classes.out("refused") / "training-cache").exists()


def test_a_published_checkpoint_brings_backbone_and_head(
    home: Home, tmp_path: Path, no_export: list[list[str]]
) -> None:
    torch.save(published_state(), tmp_path / "tiny.pth")
    given = ["--backbone", MODEL, "--args", json.dumps(ARGS), "--size", "32", "--pvu", str(tmp_path / "tiny.pth")]

    for data in ("six", "none"):
        plan = planned(home, data, *given, out=f"pvu-{data}")
        run_stages(plan.stages(), home.out(f"pvu-{data}") / "stages.json", plan.given())

    backbone = load_backbone(home.out("pvu-six") / "backbone")
    assert load_head(home.out("pvu-six") / "head", backbone.hash).description["method"] == "pvu"
    assert home.results("pvu-six")["data"]["seen-classes"]["scores"]["head"]["r_auroc"] > 0
    assert home.results("pvu-none")["data"]["instances"]["gallery"] == 48


@pytest.mark.parametrize(
    "given",
    [
        ["--backbone", "resnet18", "--size", "64", "--data-note", "photos", "--licence", "CC0", "--half-normalised"],
        ["--backbone", "resnet18", "--args", '{"channels": [8, 8, 8, 8]}', "--weights", "w.npz", "--classes", "6"],
        ["--backbone", "resnet18", "--pvu", "tiny.pth", "--crop-pct", "0.9", "--licence", "CC0"],
        ["--backbone", "hf-hub:timm/resnet18.a1_in1k", "--method", "losspred", "--seed", "3"],
    ],
)
@pytest.mark.parametrize("data", ["twelve", "none"])
def test_every_stage_is_shown_as_a_command_that_takes_all_its_arguments(
    given: list[str], data: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    if data == "none" and "losspred" in given:
        given = [*given[:-4], "--method", "pvu"]
    shown = [
        shlex.split(stage.shown) for stage in planned(home, data, *given, out=f"shown-{data}-{len(given)}").stages()
    ]
    commands = [words for words in shown if words[0] == "candor"]

    assert {words[1] for words in commands} >= {"export", "import-pvu" if "--pvu" in given else "import-backbone"}
    for words in commands:
        with pytest.raises(SystemExit) as raised:
            candor.main([*words[1:], "--no-such-option"])
        assert raised.value.code == 2, words
        assert capsys.readouterr().err.rstrip().endswith("unrecognized arguments: --no-such-option"), words


def stages(plan: Plan) -> dict[str, tuple[str, ...]]:
    """The arguments of each stage."""
    return {stage.name: stage.arguments for stage in plan.stages()}


def test_few_images_are_seen_more_often(home: Home) -> None:
    found = stages(planned(home, "six", out="shown-six"))

    epochs = [value for key, value in itertools.pairwise(found["head"]) if key == "--epochs"]
    assert epochs == ["120"]


@pytest.mark.parametrize("method", ["retrieval", "retrieval-mse"])
def test_layers_are_cached_for_a_method_that_takes_them(method: str, home: Home) -> None:
    found = stages(planned(home, "none", "--method", method, out="shown-none"))

    for name in ("training cache", "reference cache", "evaluation cache"):
        assert ("--layers" in found[name]) == METHODS[method].layers, name


def test_a_head_that_takes_layers_has_them_cached(home: Home, tmp_path: Path) -> None:
    for features in (96, 200):
        (tmp_path / "head.json").write_text(json.dumps({"sizes": {"dimension": 96, "features": features}}))
        found = stages(planned(home, "none", "--head", str(tmp_path), out="shown-none"))
        assert ("--layers" in found["training cache"]) == (features == 200)


def test_reduced_images_stay_reduced_in_every_part(home: Home) -> None:
    given = options(home, "six~16")
    split = divide(open_dataset(given.data), 0)

    spec = stages(Plan(given, split))["training cache"]

    assert f"{home.root}/six@{given.out}/split.json#training~16" in spec


def test_a_backbone_without_layers_is_told_which_method_does_without(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(arguments: object) -> None:
        raise BackboneError("timm gives no intermediate layers of Net")

    monkeypatch.setattr(cache_representations, "main", refuse)

    with pytest.raises(FitError, match=r"no intermediate layers of Net; .* --method retrieval-mse"):
        fit.main(home.arguments("six", out="no-layers"))


def test_images_that_all_find_their_like_leave_nothing_to_learn(home: Home, tmp_path: Path) -> None:
    image = pictures(1, seed=0)[0][0]
    write_folder(tmp_path / "twins", [image] * 10 + [pictures(1, seed=0)[0][1]] * 10, np.repeat([0, 1], 10))

    with pytest.raises(TargetError, match="nothing to learn"):
        fit.main(home.arguments(str(tmp_path / "twins"), "--method", "retrieval-mse", out="twins"))


def test_weights_that_cannot_be_had_say_what_to_give_instead(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise FileNotFoundError("cannot find the requested files; check your connection")

    monkeypatch.setattr(timm, "create_model", offline)

    with pytest.raises(FitError, match=r"resnet18 cannot be had: .*check your connection; give --weights FILE"):
        fit.main(home.arguments("six", "--backbone", "resnet18", out="offline"))


def test_a_model_that_timm_does_not_know_is_a_clear_error(home: Home) -> None:
    with pytest.raises(FitError, match=r"no_such_net cannot be had: .*Unknown model"):
        fit.main(home.arguments("six", "--backbone", "no_such_net", out="unknown"))
    with pytest.raises(FitError, match="runs/none: no such backbone folder"):
        fit.main(home.arguments("six", "--backbone", "runs/none", out="unknown"))


def test_all_images_that_cannot_be_read_are_named_before_any_is_cached(home: Home, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos", *pictures(6, seed=0))
    for name in ("blue", "white"):
        (folder / name / "broken.jpg").write_bytes(b"no image")

    with pytest.raises(FitError, match=r"2 images cannot be read; .*blue/broken\.jpg.*white/broken\.jpg"):
        fit.main(home.arguments(str(folder), out="broken"))

    assert not (home.out("broken") / "training-cache").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--head", "h", "--method", "ce"], "not allowed with argument"),
        (["--head", "h", "--pvu", "p"], "not allowed with argument"),
        (["--pvu", "p"], "--pvu needs a timm name"),
        (["--weights", "w.npz"], "--weights is for a timm model's own weights; .*backbone has its own"),
        (["--half-normalised"], "--half-normalised is for a timm model's own weights"),
        (["--backbone", "resnet18", "--pvu", "p", "--classes", "7"], "--classes is for .*; p has its own"),
        (["--args", "{}"], "--args is for"),
    ],
)
def test_options_that_would_not_be_used_are_refused(
    given: list[str], message: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        fit.main(home.arguments("six", *given))

    assert re.search(message, capsys.readouterr().err)


def test_a_method_that_needs_classes_is_refused_without_any(home: Home) -> None:
    with pytest.raises(FitError, match=r"ce needs classes, and .*none has none; choose of .*retrieval"):
        fit.main(home.arguments("none", "--method", "ce", out="ce"))


def test_a_place_where_nothing_is_says_so(home: Home) -> None:
    with pytest.raises(SystemExit, match=r"candor fit: .*nowhere: no such folder or file"):
        candor.main(["fit", *home.arguments("nowhere")])
