"""The methods by name. To add one: its own file, one line here, and its name in a test of its loss."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from models.methods.base import Head, Sizes
from models.methods.cross_entropy import CrossEntropy
from models.methods.elk import ExpectedLikelihoodKernel
from models.methods.ensemble import Ensemble
from models.methods.hetxl import HetXl
from models.methods.hib import Hib
from models.methods.infonce import InfoNce
from models.methods.inverse_norm import InverseNorm
from models.methods.knn import KnnDistance
from models.methods.leverage import Leverage
from models.methods.losspred import LossPrediction
from models.methods.mahalanobis import Mahalanobis
from models.methods.mc_dropout import McDropout
from models.methods.mcinfonce import MCInfoNCE
from models.methods.nivmf import NonIsotropicVMF
from models.methods.predicted_loss import PredictedLoss
from models.methods.pvu import PvuHead
from models.methods.sngp import Sngp


@dataclass(frozen=True)
class Method:
    """How a method is made and trained.

    Attributes:
        make: the head's class.
        label: how tables and plots call it.
        options: given to `make`.
        schedule: what the method's training changes of the usual `Schedule`.
        target: the loss that the head learns to predict (a key of `models.targets.TARGETS`), if none of its own.
        layers: whether its features hold the statistics of all layers beside the pooled pre-logits.
        trains: whether there is anything to train by gradient; if not, `prepare` and `finish` are all.
        surgery: whether its losses are combined by PCGrad.
        published: its name in the URL benchmark's tables, where it is one of them.
    """

    make: Callable[..., Head]
    label: str
    options: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    target: str | None = None
    layers: bool = False
    trains: bool = True
    surgery: bool = False
    published: str | None = None


WIDE = {"hidden": 256, "dropout": 0.7}
MSE = {**WIDE, "objective": "mse"}
REGULAR = {"weight_decay": 0.05}

METHODS: dict[str, Method] = {
    "ce": Method(CrossEntropy, "CE entropy", published="CE"),
    "infonce": Method(InfoNce, "InfoNCE 1/|e|", published="InfoNCE"),
    "mcinfonce": Method(MCInfoNCE, "MCInfoNCE", published="MCInfoNCE"),
    "elk": Method(ExpectedLikelihoodKernel, "ELK", published="ELK"),
    "nivmf": Method(NonIsotropicVMF, "nivMF", published="nivMF"),
    "hib": Method(Hib, "HIB", published="HIB"),
    "hetxl": Method(HetXl, "HET-XL", published="HET-XL"),
    "losspred": Method(LossPrediction, "Losspred", published="Losspred"),
    "losspred-joint": Method(LossPrediction, "Losspred, joint gradient", {"gradient": "joint"}),
    "losspred-pcgrad": Method(LossPrediction, "Losspred, PCGrad", {"gradient": "joint"}, surgery=True),
    "mc-dropout": Method(McDropout, "MC-dropout", published="MC-dropout"),
    "ensemble": Method(Ensemble, "Ensemble", published="Ensemble"),
    "sngp": Method(Sngp, "SNGP", published="SNGP"),
    "inverse-norm": Method(InverseNorm, "1/|e| of the backbone", trains=False),
    "mahalanobis": Method(Mahalanobis, "Mahalanobis++", trains=False),
    "relative-mahalanobis": Method(Mahalanobis, "Mahalanobis++, relative", {"relative": True}, trains=False),
    "knn": Method(KnnDistance, "kNN distance", trains=False),
    "leverage": Method(Leverage, "Leverage", trains=False),
    "pvu": Method(PvuHead, "PVU ranking head", target="probe"),
    "probe-loss": Method(PredictedLoss, "Probe loss, all pairs", WIDE, REGULAR, target="probe"),
    "retrieval-loss": Method(PredictedLoss, "Retrieval loss, all pairs", WIDE, REGULAR, target="retrieval"),
    "retrieval-error": Method(
        PredictedLoss, "Retrieval error, layers", MSE, REGULAR, target="retrieval-error", layers=True
    ),
    "retrieval-mse": Method(PredictedLoss, "Retrieval loss", MSE, REGULAR, target="retrieval"),
    "retrieval-layers": Method(PredictedLoss, "Retrieval loss, layers", MSE, REGULAR, target="retrieval", layers=True),
    "retrieval": Method(
        PredictedLoss,
        "Retrieval loss, layers, 4 heads",
        {**MSE, "members": 4},
        REGULAR,
        target="retrieval",
        layers=True,
    ),
}


def make_head(name: str, sizes: Sizes, **options: Any) -> Head:
    """A new head of a method, with the method's options and then these."""
    method = METHODS[name]
    return method.make(sizes, **{**method.options, **options})
