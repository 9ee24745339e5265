"""The bundle: one ONNX graph and the JSON that says what it is, checked before anything is served from it."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.errors import UserError
from models.preprocess import Interpolation, Preprocessing
from uncertainty.calibration import ReferenceQuantiles

FORMAT_VERSION = 1
GRAPH_FILE = "model.onnx"
MANIFEST_FILE = "bundle.json"
DEFAULT_BUNDLE = Path(__file__).parent / "bundles" / "default"

Quantiles = Annotated[list[float], Field(min_length=2)]


class BundleError(UserError):
    """A bundle that must not be served; the message says why and what to do."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PreprocessingSpec(_Strict):
    """The JSON form of `Preprocessing`."""

    size: int = Field(ge=8, le=2048)
    crop_pct: float = Field(gt=0, le=1)
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def build(self) -> Preprocessing:
        """The dataclass that `preprocess` takes."""
        return Preprocessing(**self.model_dump())


class BackboneSpec(_Strict):
    """The timm name and the arguments given to `timm.create_model`."""

    name: str
    args: dict[str, Any] = {}


class Reference(_Strict):
    """Evenly spaced quantiles of each score over a named reference set of `count` images."""

    dataset: str
    count: int = Field(ge=1)
    uncertainty: Quantiles
    novelty: Quantiles

    @model_validator(mode="after")
    def _ascending(self) -> "Reference":
        for name in ("uncertainty", "novelty"):
            values = np.asarray(getattr(self, name))
            if not np.isfinite(values).all() or (np.diff(values) < 0).any():
                raise ValueError(f"reference {name} quantiles must be finite and ascending")
        return self


class Training(_Strict):
    """Where the weights come from, and on what terms."""

    data: str
    licence: str
    details: dict[str, Any] = {}


class Manifest(_Strict):
    """`bundle.json`."""

    format_version: Literal[1]
    name: str = Field(min_length=1)
    backbone: BackboneSpec
    preprocessing: PreprocessingSpec
    dimension: int = Field(ge=2)
    outputs: list[str]
    graph_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    reference: Reference
    training: Training
    calibration: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    versions: dict[str, str] = {}
    command: str = ""
    commit: str = ""
    created: str = ""


class Bundle:
    """A verified bundle folder."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.preprocessing = manifest.preprocessing.build()
        self.hash = bundle_hash(manifest)
        self._uncertainty = ReferenceQuantiles(np.asarray(manifest.reference.uncertainty))
        self._novelty = ReferenceQuantiles(np.asarray(manifest.reference.novelty))

    @property
    def graph_path(self) -> Path:
        """Path of the ONNX graph."""
        return self.path / GRAPH_FILE

    def uncertainty_percentile(self, uncertainty: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n,) raw uncertainty -> (n,) share in [0, 1] of the reference set that is less uncertain."""
        return self._uncertainty.percentile(uncertainty)

    def novelty_percentile(self, novelty: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n,) raw novelty -> (n,) share in [0, 1] of the reference set that is less novel."""
        return self._novelty.percentile(novelty)


def bundle_hash(manifest: Manifest) -> str:
    """`sha256:...` over what decides an embedding: the graph and the preprocessing in front of it."""
    text = json.dumps([manifest.graph_sha256, manifest.preprocessing.model_dump(mode="json")], sort_keys=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_bundle(path: Path) -> Bundle:
    """Read and verify a bundle folder.

    Raises:
        BundleError: when a file is missing, the manifest breaks the schema, or the graph is not the one it describes.
    """
    manifest_path, graph_path = path / MANIFEST_FILE, path / GRAPH_FILE
    for file in (manifest_path, graph_path):
        if not file.is_file():
            raise BundleError(f"{path} is no bundle: {file.name} is missing; make one with `candor export`")
    try:
        manifest = Manifest.model_validate_json(manifest_path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BundleError(
            f"{manifest_path} breaks the schema of format {FORMAT_VERSION}: {problems}; export the bundle again"
        ) from error
    if file_sha256(graph_path) != manifest.graph_sha256:
        raise BundleError(f"{graph_path} is not the graph {MANIFEST_FILE} describes; export the bundle again")
    return Bundle(path, manifest)
