"""One tiny run of every offline stage up to the calibration, made once for all tests of the stages."""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pytest
import torch

from scripts import cache_representations, calibrate, export, train_backbone, train_head
from tests.offline import TORCH, pictures, write_packed

IN_TORCH = ["--device", TORCH, "--workers", "0"]
POOLED = "retrieval-loss"  # a method that does without the statistics of layers
SMALL = '{"hidden": 32, "dropout": 0.0}'


@dataclass(frozen=True)
class Stages:
    """The folders of one run, and the packed images they were made from."""

    root: Path

    def path(self, name: str) -> str:
        return str(self.root / name)

    @property
    def frozen(self) -> list[str]:
        """The argument that names the backbone."""
        return ["--backbone", self.path("backbone")]

    @property
    def judged(self) -> list[str]:
        """The arguments that name backbone and head."""
        return [*self.frozen, "--head", self.path("head")]


@pytest.fixture(scope="session", autouse=True)
def quiet_libraries() -> None:
    """One thread, since on busy cores threads wait for each other for minutes; and no window."""
    torch.set_num_threads(1)
    matplotlib.use("agg")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Packed images to train on, held out, to refer to and to report on; only the first are easy."""
    stages = Stages(tmp_path_factory.mktemp("stages"))
    for seed, (name, per_class, faintest) in enumerate(
        [("train", 32, 0.6), ("held", 20, 0.1), ("reference", 10, 0.1), ("test", 12, 0.0)]
    ):
        write_packed(stages.root / f"{name}.npz", *pictures(per_class, seed, faintest))
    return stages


@pytest.fixture(scope="session")
def trained(images: Stages) -> Stages:
    """With a backbone trained for a few epochs."""
    arguments = ["test_resnet", "--data", images.path("train.npz"), "--size", "32", "--epochs", "5"]
    arguments += ["--batch-size", "24", "--validation", images.path("reference.npz"), "--licence", "CC0"]
    train_backbone.main([*arguments, "--out", images.path("backbone"), "--device", "cpu", "--workers", "0"])
    return images


@pytest.fixture(scope="session")
def cached(trained: Stages) -> Stages:
    """With the caches that head and calibration are made from."""
    for name, views in (("held", "2"), ("train", "0"), ("reference", "0")):
        arguments = [*trained.frozen, "--data", trained.path(f"{name}.npz"), "--views", views]
        cache_representations.main([*arguments, "--out", trained.path(f"{name}-cache"), *IN_TORCH])
    return trained


@pytest.fixture(scope="session")
def with_head(cached: Stages) -> Stages:
    """With a head."""
    arguments = [*cached.frozen, "--cache", cached.path("held-cache"), "--epochs", "20", "--batch-size", "36"]
    train_head.main([*arguments, "--method", POOLED, "--options", SMALL, "--out", cached.path("head")])
    return cached


@pytest.fixture(scope="session")
def with_layers(trained: Stages) -> Stages:
    """With caches of all layers, and a head that sees them."""
    for name in ("held", "reference"):
        arguments = [*trained.frozen, "--data", trained.path(f"{name}.npz"), "--out", trained.path(f"{name}-layers")]
        cache_representations.main([*arguments, "--layers", "--views", "1", "--degraded", "0.5", *IN_TORCH])
    arguments = [*trained.frozen, "--cache", trained.path("held-layers"), "--epochs", "5", "--batch-size", "36"]
    train_head.main([*arguments, "--options", SMALL, "--out", trained.path("head-layers")])
    return trained


@pytest.fixture(scope="session")
def calibrated(with_head: Stages) -> Stages:
    """With a calibration: everything that an export needs."""
    arguments = [*with_head.judged, "--cache", with_head.path("train-cache")]
    arguments += ["--reference", with_head.path("reference-cache"), "--quantiles", "21"]
    calibrate.main([*arguments, "--out", with_head.path("calibration")])
    return with_head


@pytest.fixture(scope="session")
def exported(calibrated: Stages) -> Stages:
    """With a bundle."""
    arguments = [*calibrated.judged, "--calibration", calibrated.path("calibration"), "--images", "40"]
    arguments += ["--data", calibrated.path("test.npz"), "--name", "stripes"]
    export.main([*arguments, "--out", calibrated.path("bundle")])
    return calibrated
