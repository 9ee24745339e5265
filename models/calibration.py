"""The calibration of a bundle on disk: reference quantiles of each score, and the Mahalanobis++ statistics."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import UserError
from uncertainty.novelty import NoveltyModel

ARRAYS_FILE = "calibration.npz"
DESCRIPTION_FILE = "calibration.json"


class CalibrationError(UserError):
    """A calibration that must not be used; the message says what to do."""


@dataclass(frozen=True)
class Calibration:
    """Quantiles (q,) of both scores over `count` images of the reference set `dataset`."""

    dataset: str
    count: int
    uncertainty: NDArray[np.float64]
    novelty: NDArray[np.float64]
    novelty_model: NoveltyModel


def save_calibration(calibration: Calibration, backbone_hash: str, folder: Path) -> None:
    """Write the arrays and what they were made from."""
    folder.mkdir(parents=True, exist_ok=True)
    model = calibration.novelty_model
    np.savez(
        folder / ARRAYS_FILE,
        uncertainty=calibration.uncertainty,
        novelty=calibration.novelty,
        whitening=model.whitening,
        centroids=model.centroids,
    )
    description = {
        "backbone_hash": backbone_hash,
        "dataset": calibration.dataset,
        "count": calibration.count,
        "shrinkage": model.shrinkage,
    }
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")


def load_calibration(folder: Path, backbone_hash: str) -> Calibration:
    """Read a calibration folder.

    Raises:
        CalibrationError: when there is none, or it was made with another backbone.
    """
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise CalibrationError(f"{folder} holds no calibration; make one with `candor calibrate`")
    description = json.loads(path.read_text())
    if description["backbone_hash"] != backbone_hash:
        raise CalibrationError(f"{folder} was made with another backbone; calibrate again")
    with np.load(folder / ARRAYS_FILE, allow_pickle=False) as arrays:
        model = NoveltyModel(arrays["whitening"], arrays["centroids"], description["shrinkage"])
        return Calibration(
            description["dataset"], description["count"], arrays["uncertainty"], arrays["novelty"], model
        )
