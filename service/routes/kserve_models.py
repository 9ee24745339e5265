"""`/v2/...`: health, and what is served, as Triton's clients ask for it.

Sources: https://github.com/kserve/open-inference-protocol, and Triton's extensions for a model's configuration and the
model repository.
"""

from typing import Any, Final

from fastapi import APIRouter, Request

from service.kserve.describe import config, metadata
from service.kserve.paths import of_bundle, services_in
from service.kserve.schemas import (
    KServeConfig,
    KServeIndexEntry,
    KServeLive,
    KServeModel,
    KServeModelReady,
    KServeReady,
    KServeServer,
)
from service.lifecycle import lifecycle_of, served
from service.openapi import errors, package_version

EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "model_repository")
OF_PROBE, OF_SERVER, OF_MODEL = (
    errors(*statuses, protocol="kserve") for statuses in ((503,), (401, 503), (401, 404, 503))
)

router = APIRouter(tags=["kserve"])


@router.get("/v2", responses={200: {"model": KServeServer}, **OF_SERVER})
async def server() -> dict[str, Any]:
    """What server this is, and which extensions of the protocol it has."""
    return {"name": "candor", "version": package_version(), "extensions": list(EXTENSIONS)}


@router.get("/v2/health/live", responses={200: {"model": KServeLive}, **OF_PROBE})
async def live(request: Request) -> dict[str, bool]:
    """Whether the process can do its work, as `/healthz` says it."""
    lifecycle_of(request).check_alive()
    return {"live": True}


@router.get("/v2/health/ready", responses={200: {"model": KServeReady}, **OF_PROBE})
async def ready(request: Request) -> dict[str, bool]:
    """Whether to send requests here, as `/readyz` says it."""
    lifecycle_of(request).check_ready()
    return {"ready": True}


@router.post("/v2/repository/index", responses={200: {"model": list[KServeIndexEntry]}, **OF_SERVER})
async def index(request: Request) -> list[dict[str, str]]:
    """Every served bundle, the default one first; a body is not read."""
    return [
        {"name": services.name, "version": services.bundle.hash, "state": "READY", "reason": ""}
        for services in served(request)
    ]


@of_bundle(router, "GET", "", responses={200: {"model": KServeModel}, **OF_MODEL})
async def describe_model(request: Request) -> dict[str, Any]:
    """What a bundle takes and gives. Its one version is its hash: who names it gets no other bundle's numbers."""
    return metadata(services_in(request))


@of_bundle(router, "GET", "/config", responses={200: {"model": KServeConfig}, **OF_MODEL})
async def configuration(request: Request) -> dict[str, Any]:
    """The same as Triton's configuration of a model."""
    return config(services_in(request))


@of_bundle(router, "GET", "/ready", responses={200: {"model": KServeModelReady}, **OF_MODEL})
async def model_ready(request: Request) -> dict[str, Any]:
    """Whether a bundle is served."""
    lifecycle_of(request).check_ready()
    return {"name": services_in(request).name, "ready": True}
