"""Published figures that a bench is read beside, each with its source.

Those of a table were recomputed from the result files in the authors' repository, https://github.com/mkirchhof/url.
"""

import re
from dataclasses import dataclass

URL = "URL benchmark (Kirchhof et al., NeurIPS 2023, arXiv:2307.03810)"
PVU = "Pretrained Visual Uncertainties (Kirchhof et al., arXiv:2402.16569)"
THESIS = "Uncertainties of Latent Representations in Computer Vision (Kirchhof, arXiv:2408.14281)"


@dataclass(frozen=True)
class Figure:
    """One published value: what it is, and where it is from."""

    value: float
    of: str
    source: str


@dataclass(frozen=True)
class Retrieval:
    """R-AUROC and R@1 of one model, means over CUB, CARS and SOP test classes."""

    r_auroc: float
    recall_at_1: float


# Means over three seeds, by backbone and method.
URL_METHODS: dict[str, dict[str, Retrieval]] = {
    "ResNet-50": {
        "MCInfoNCE": Retrieval(0.569, 0.432),
        "nivMF": Retrieval(0.567, 0.431),
        "ELK": Retrieval(0.560, 0.391),
        "Losspred": Retrieval(0.550, 0.395),
        "HIB": Retrieval(0.539, 0.305),
        "Ensemble": Retrieval(0.524, 0.369),
        "InfoNCE": Retrieval(0.520, 0.374),
        "MC-dropout": Retrieval(0.517, 0.315),
        "HET-XL": Retrieval(0.512, 0.292),
        "SNGP": Retrieval(0.510, 0.288),
        "CE": Retrieval(0.504, 0.407),
    },
    "ViT-M": {
        "Losspred": Retrieval(0.568, 0.525),
        "ELK": Retrieval(0.566, 0.358),
        "SNGP": Retrieval(0.564, 0.411),
        "nivMF": Retrieval(0.545, 0.568),
        "HIB": Retrieval(0.541, 0.287),
        "HET-XL": Retrieval(0.529, 0.515),
        "CE": Retrieval(0.529, 0.405),
        "Ensemble": Retrieval(0.522, 0.409),
        "MC-dropout": Retrieval(0.522, 0.479),
        "InfoNCE": Retrieval(0.512, 0.400),
        "MCInfoNCE": Retrieval(0.495, 0.492),
    },
}

PVU_SIZES: dict[str, Retrieval] = {
    "ViT-Tiny": Retrieval(0.610, 0.352),
    "ViT-Small": Retrieval(0.614, 0.535),
    "ViT-Base": Retrieval(0.607, 0.562),
    "ViT-Large": Retrieval(0.585, 0.659),
}

# R-AUROC of the ViT-Base, by data set.
PVU_SETS: dict[str, float] = {
    "Caltech": 0.758,
    "Pets": 0.740,
    "CIFAR-10": 0.739,
    "CIFAR-100": 0.706,
    "SUN": 0.691,
    "Flowers": 0.659,
    "DTD": 0.649,
    "CUB": 0.626,
    "SOP": 0.607,
    "CARS": 0.589,
    "Treeversity": 0.560,
    "SVHN": 0.495,
}

REFERENCE = Figure(0.684, "R-AUROC of a ResNet-50 trained on the downstream test classes themselves", URL)
HUMAN_CORRELATION = Figure(
    0.80, "rank correlation of R-AUROC and human agreement, both means over the sets with votes, over 304 runs", THESIS
)
HUMAN_HEAD = Figure(0.328, "Spearman with human vote entropy on ImageNet-ReaL-H, predicted loss", PVU)
HUMAN_ENTROPY = Figure(0.471, "Spearman with human vote entropy on ImageNet-ReaL-H, class entropy", PVU)
HUMAN_BEST = Figure(0.095, "Spearman with human vote entropy, mean over sets, the best of 304 runs", URL)
OOD_HEAD = Figure(0.449, "OOD AUROC, ImageNet-21k against CUB, CARS and SOP, predicted loss", PVU)

# Losspred on ImageNet-1k, with the backbone trained.
CONFLICT = (
    "Without StopGrad, top-1 accuracy falls from .798 to .758 and correctness AUROC stalls near .79; with it, accuracy "
    f"stays at .796 and correctness AUROC climbs from .780 to .824: {PVU}."
)


def published_set(name: str) -> str | None:
    """The published data set that a set's name begins with, e.g. CIFAR-10 for `cifar10-test`, or None."""
    for published in PVU_SETS:
        letters, _, digits = published.partition("-")
        end = rf"[-_ ]?{digits}(?!\d)" if digits else "(?![a-z])"
        if re.match(letters + end, name, re.IGNORECASE):
            return published
    return None
