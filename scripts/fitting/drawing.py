"""Pictures of a score: what is risked at which coverage, and which images it is most and least sure of."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from PIL import Image

from uncertainty import metrics


def plot_risk_coverage(
    scores: Mapping[str, NDArray[np.float64]], correct: NDArray[np.bool_], path: Path, title: str, ours: str
) -> None:
    """Draw each score's (n,) selective risk against coverage, that of the score `ours` in bold."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for key, score in scores.items():
        curve = metrics.selective_risk(score, 1.0 - correct)
        style = {"linewidth": 2.2, "color": "black"} if key == ours else {"linewidth": 1.2}
        axes.plot(curve.coverage, curve.risk, label=f"{key} (AURC {metrics.aurc(score, 1.0 - correct):.3f})", **style)
    axes.axhline(float(np.mean(~correct)), color="grey", linestyle=":", linewidth=1, label="answer everything")
    axes.set(xlabel="coverage", ylabel="selective risk (wrong nearest neighbour)", title=title)
    axes.set(xlim=(0.02, 1), ylim=(0, None))
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_montage(
    image: Callable[[int], Image.Image],
    uncertainty: NDArray[np.float64],
    path: Path,
    columns: int = 12,
    side: int = 96,
) -> None:
    """Draw the images of lowest uncertainty (n,) in two rows above, those of highest in two rows below."""
    order = np.argsort(uncertainty, kind="stable")
    rows = (order[: 2 * columns], order[::-1][: 2 * columns])
    canvas = Image.new("RGB", (columns * side, 4 * side + 12), "white")
    for half, chosen in enumerate(rows):
        for place, item in enumerate(chosen[: order.size // 2]):
            row, column = divmod(place, columns)
            top = (2 * half + row) * side + 12 * half
            canvas.paste(image(int(item)).resize((side, side)), (column * side, top))
    canvas.save(path)
