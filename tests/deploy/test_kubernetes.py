"""The manifests: valid for Kubernetes, closed, and fitting together."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
OVERLAYS = ("base", "gpu", "single")
MANIFESTS = sorted(path for path in (FOLDER / "base").glob("*.yaml") if path.name != "kustomization.yaml")
LABELS = {"app.kubernetes.io/name": "candor"}


def manifest(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def kustomized(overlay: str) -> dict[str, dict[str, Any]]:
    """What `kubectl apply --kustomize` would send, by kind."""
    commands = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    command = next((command for tool, command in commands.items() if shutil.which(tool)), None)
    if command is None:
        pytest.skip("needs kubectl or kustomize")
    done = subprocess.run([*command, FOLDER / overlay], capture_output=True, text=True, check=True, timeout=60)
    found = [document for document in yaml.safe_load_all(done.stdout) if document]
    return {document["kind"]: document for document in found}


def pod(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = found["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_each_manifest_is_valid_without_an_unknown_field(path: Path) -> None:
    kubernetes_validate.validate(manifest(path), "1.30", strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_kustomization_names_files_that_are_there_and_all_of_them(overlay: str) -> None:
    listed = manifest(FOLDER / overlay / "kustomization.yaml")
    named = [*listed["resources"], *(patch["path"] for patch in listed.get("patches", []))]

    assert all((FOLDER / overlay / name).exists() for name in named)
    assert {name for name in named if name.endswith(".yaml")} == {
        path.name for path in (FOLDER / overlay).glob("*.yaml")
    } - {"kustomization.yaml"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_applied_is_valid(overlay: str) -> None:
    found = kustomized(overlay)

    assert found.keys() >= {"Deployment", "Service", "ServiceAccount", "NetworkPolicy", "ConfigMap"}
    for document in found.values():
        kubernetes_validate.validate(document, "1.30", strict=True)


def test_everything_means_the_same_pods() -> None:
    base = {path.stem: manifest(path) for path in MANIFESTS}
    deployment, service = base["deployment"], base["service"]

    assert deployment["spec"]["template"]["metadata"]["labels"] == LABELS
    assert deployment["spec"]["selector"]["matchLabels"] == LABELS
    assert service["spec"]["selector"] == LABELS
    assert base["pdb"]["spec"]["selector"]["matchLabels"] == LABELS
    assert base["networkpolicy"]["spec"]["podSelector"]["matchLabels"] == LABELS
    assert base["hpa"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert deployment["spec"]["template"]["spec"]["serviceAccountName"] == base["serviceaccount"]["metadata"]["name"]


def test_the_pod_is_closed_and_drains() -> None:
    spec = manifest(FOLDER / "base" / "deployment.yaml")["spec"]["template"]["spec"]
    (container,) = spec["containers"]

    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    assert spec["terminationGracePeriodSeconds"] > container["lifecycle"]["preStop"]["sleep"]["seconds"] + 30
    probes = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probes == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}


def test_secrets_are_named_and_not_held() -> None:
    assert not [path for path in FOLDER.rglob("*.yaml") if "kind: Secret" in path.read_text()]


def test_the_autoscaler_and_its_adapter_speak_of_one_metric() -> None:
    (rule,) = manifest(FOLDER / "prometheus-adapter.yaml")["rules"]["custom"]
    metrics = manifest(FOLDER / "base" / "hpa.yaml")["spec"]["metrics"]

    assert rule["name"]["as"] == metrics[0]["pods"]["metric"]["name"] == "candor_queue_images"
    assert metrics[1]["resource"]["name"] == "cpu"


def test_the_gpu_overlay_asks_for_a_gpu_for_each_replica() -> None:
    found = kustomized("gpu")
    (container,) = pod(found)["containers"]

    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"] == "candor:gpu"
    assert [metric["type"] for metric in found["HorizontalPodAutoscaler"]["spec"]["metrics"]] == ["Pods"]


def test_the_single_overlay_keeps_its_gallery_on_a_claim_with_one_writer() -> None:
    found = kustomized("single")
    volumes = {volume["name"]: volume for volume in pod(found)["volumes"]}

    assert volumes["data"] == {"name": "data", "persistentVolumeClaim": {"claimName": "candor-gallery"}}
    assert found["PersistentVolumeClaim"]["metadata"]["name"] == "candor-gallery"
    assert (found["Deployment"]["spec"]["replicas"], found["Deployment"]["spec"]["strategy"]["type"]) == (1, "Recreate")
    assert found["ConfigMap"]["data"]["CANDOR_GALLERY"] == "/data/gallery"
    assert not found.keys() & {"HorizontalPodAutoscaler", "PodDisruptionBudget"}
