import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scripts.bench.plots import draw
from scripts.bench.report import write_report
from tests.scripts.bench.example_results import BACKBONES, SETS, example_results

FEW = ("ce", "losspred", "losspred-joint", "losspred-pcgrad", "knn", "pvu", "elk", "retrieval")


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return example_results(backbones=BACKBONES[:1], methods=FEW, sets=list(SETS)[1:4], seeds=2)


@pytest.fixture(scope="module")
def out(results: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "report"
    write_report(results, folder)
    return folder


@pytest.mark.parametrize("name", ["bars", "human", f"curves-{BACKBONES[0]}", "conflict", "scaling"])
def test_every_plot_is_written_is_not_empty_and_is_shown(out: Path, name: str) -> None:
    with Image.open(out / "plots" / f"{name}.png") as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    coloured = np.ptp(pixels, axis=2) > 60

    assert min(pixels.shape[:2]) > 250
    assert coloured.sum() > 300
    assert f"![{name}](plots/{name}.png)" in (out / "report.md").read_text(encoding="utf-8")


def test_every_image_of_the_report_is_a_file_beside_it(out: Path) -> None:
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (out / "report.md").read_text(encoding="utf-8"))

    assert len(links) == 5
    assert {out / link for link in links} == set((out / "plots").iterdir())


def test_plots_without_data_are_not_drawn(results: dict[str, Any], tmp_path: Path) -> None:
    absent: dict[str, Any] = {"methods": [], "human": {"points": []}, "scaling": [], "curves": [], "trainable": []}

    assert draw({**results, **absent}, tmp_path / "plots") == {}
    assert not (tmp_path / "plots").exists()


def test_a_backbone_of_any_name_gets_a_file_of_its_own(results: dict[str, Any], tmp_path: Path) -> None:
    name = "ViT B/16 (in21k)"
    only: dict[str, Any] = {"human": {"points": []}, "scaling": [], "trainable": [], "leads": {}}
    renamed = {key: [{**row, "backbone": name} for row in results[key]] for key in ("methods", "curves")}
    backbones = [{**results["backbones"][0], "name": name}]

    drawn = draw({**results, **only, **renamed, "backbones": backbones}, tmp_path)
    assert drawn[f"curves-{name}"] == tmp_path / "curves-ViT-B-16-in21k-.png"
    assert drawn[f"curves-{name}"].is_file()
