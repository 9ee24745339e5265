"""Pictures of an evaluation: risk against coverage, and the images themselves."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from PIL import Image

from models.dataset import Dataset
from uncertainty import metrics


def plot_risk_coverage(
    scores: Mapping[str, NDArray[np.float64]], first: str, correct: NDArray[np.bool_], path: Path, title: str
) -> None:
    """Selective risk against coverage of every score (n,), the `first` one in front, where `correct` (n,) is right."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for key, score in scores.items():
        curve = metrics.selective_risk(score, 1.0 - correct)
        style = {"linewidth": 2.2, "color": "black"} if key == first else {"linewidth": 1.2}
        axes.plot(curve.coverage, curve.risk, label=f"{key} (AURC {metrics.aurc(score, 1.0 - correct):.3f})", **style)
    axes.axhline(float(np.mean(~correct)), color="grey", linestyle=":", linewidth=1, label="answer everything")
    axes.set(xlabel="coverage", ylabel="selective risk (wrong nearest neighbour)", title=title)
    axes.set(xlim=(0.02, 1), ylim=(0, None))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def montage(dataset: Dataset, uncertainty: NDArray[np.float64], path: Path, columns: int = 12, side: int = 96) -> None:
    """The most certain images in two rows above, the least certain in two rows below."""
    order = np.argsort(uncertainty, kind="stable")
    half = min(2 * columns, order.size // 2)
    canvas = Image.new("RGB", (columns * side, 4 * side + 12), "white")
    for place, i in enumerate([*order[:half], *order[::-1][:half]]):
        row, column = divmod(place if place < half else place - half, columns)
        top = row * side + (0 if place < half else 2 * side + 12)
        canvas.paste(dataset.image(int(i)).resize((side, side)), (column * side, top))
    canvas.save(path)
