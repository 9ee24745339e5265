"""What report and plots both take from a summary: the methods in order, means over sets, spreads over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.methods.classifier import Classifier
from models.methods.losspred import LossPrediction
from models.methods.registry import METHODS

Results = Mapping[str, Any]
FAMILIES = (
    "class entropy",
    "learned embedding",
    "predicts the classifier's loss",
    "predicts the retrieval loss",
    "nothing trained",
)


@dataclass(frozen=True)
class Standing:
    """One method behind one backbone: its row of the summary for each of some sets, in their order."""

    method: str
    rows: tuple[Mapping[str, Any], ...]

    @property
    def label(self) -> str:
        """How tables and plots call the method."""
        return METHODS[self.method].label

    @property
    def r_auroc(self) -> float:
        """Mean R-AUROC over the sets."""
        return self.mean("r_auroc")

    @property
    def spread(self) -> float:
        """Standard deviation over seeds of the mean R-AUROC over the sets, NaN for one seed."""
        by_seed = np.mean([row["r_auroc_by_seed"] for row in self.rows], axis=0)  # (seeds,)
        return deviation(by_seed)

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the mean R-AUROC over the sets.

        The sets hold different images, so that the distances from each set's figure to its bounds add in quadrature.
        """
        bounds = np.array([row["r_auroc_interval"] for row in self.rows])  # (sets, 2)
        values = np.array([row["r_auroc"] for row in self.rows])  # (sets,)
        below, above = np.sqrt(np.sum((bounds - values[:, None]) ** 2, axis=0)) / len(values)
        return self.r_auroc - below, self.r_auroc + above

    def mean(self, figure: str) -> float:
        """Mean of a figure over the sets that have it, NaN where none has."""
        return mean([row[figure] for row in self.rows if figure in row])


def standings(results: Results, backbone: str, sets: Sequence[str]) -> list[Standing]:
    """Every method behind a backbone, the highest mean R-AUROC over the sets first."""
    rows = {(row["method"], row["set"]): row for row in results["methods"] if row["backbone"] == backbone}
    methods = dict.fromkeys(method for method, _ in rows)
    found = [Standing(method, tuple(rows[method, name] for name in sets)) for method in methods]
    return sorted(found, key=lambda standing: -standing.r_auroc)


def set_names(results: Results, *, validation: bool) -> list[str]:
    """The sets that methods were chosen on, or those that are only reported."""
    return [each["name"] for each in results["sets"] if each["validation"] is validation]


def headline_sets(results: Results) -> list[str]:
    """The sets that methods are ordered by: those only reported, or all where every set is for validation."""
    return set_names(results, validation=False) or set_names(results, validation=True)


def backbones(results: Results) -> list[str]:
    """Backbones behind which any method is finished, in the order of the bench."""
    present = {row["backbone"] for row in results["methods"]}
    return [each["name"] for each in results["backbones"] if each["name"] in present]


def shipped(results: Results) -> str | None:
    """The method whose leads the summary holds: the one that has no lead over itself."""
    for backbone, by_set in results["leads"].items():
        methods = {row["method"] for row in results["methods"] if row["backbone"] == backbone}
        for leads in by_set.values():
            own = sorted(methods - leads.keys())
            if leads and len(own) == 1:
                return str(own[0])
    return None


def family(method: str) -> str:
    """Which of FAMILIES a method belongs to, by how it is made."""
    made = METHODS[method]
    if not made.trains:
        return "nothing trained"
    if made.target and made.target.startswith("retrieval"):
        return "predicts the retrieval loss"
    if made.target or made.make is LossPrediction:
        return "predicts the classifier's loss"
    return "class entropy" if isinstance(made.make, type) and issubclass(made.make, Classifier) else "learned embedding"


def mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Mean, NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")


def deviation(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Standard deviation of a sample, NaN for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
