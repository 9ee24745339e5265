"""Probes, metrics, and what is served."""

import asyncio
from dataclasses import asdict
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.decide import default_threshold
from service.generation import Services
from service.lifecycle import generation_of, lifecycle_of, services_of
from service.openapi import errors, package_version
from service.schemas import HealthBody, ModelBody, ModelsBody
from service.telemetry import Metrics

COUNT_TIMEOUT_S: Final = 1.0
LIMITS: Final = (
    "queue_images",
    "max_image_bytes",
    "max_pixels",
    "max_images_per_request",
    "max_body_bytes",
    "request_timeout_s",
    "upload_timeout_s",
)

router = APIRouter(tags=["operations"])


@router.get("/healthz", responses={200: {"model": HealthBody}, **errors(503)})
async def healthz(request: Request) -> dict[str, str]:
    """Whether the process can do its work: 503 means that only a restart will help. Loading and draining are fine."""
    lifecycle = lifecycle_of(request)
    lifecycle.check_alive()
    return {"status": "ok" if lifecycle.services else "loading"}


@router.get("/readyz", responses={200: {"model": HealthBody}, **errors(503)})
async def readyz(request: Request) -> dict[str, str]:
    """Whether to send requests here: 503 while loading, draining or unwell."""
    lifecycle_of(request).check_ready()
    return {"status": "ready"}


@router.get("/model", responses={200: {"model": ModelBody}, **errors(400, 401, 503)})
async def model(request: Request) -> dict[str, Any]:
    """A bundle, the device it runs on, and the limits that hold."""
    return _model(services_of(request))


@router.get("/models", responses={200: {"model": ModelsBody}, **errors(401, 503)})
async def models(request: Request) -> dict[str, Any]:
    """Every bundle that is served."""
    generation = generation_of(request)
    return {
        "default": generation.default.name,
        "models": [_model(services) for services in generation.by_name.values()],
    }


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus."}, **errors(401)},
)
async def metrics(request: Request) -> Response:
    """Every `candor_*` metric, as Prometheus reads it."""
    registered: Metrics = request.app.state.metrics
    lifecycle = lifecycle_of(request)
    served = lifecycle.generation.by_name.values() if lifecycle.generation else ()
    await asyncio.gather(*(_count_gallery(services) for services in served if services.kept is not None))
    lifecycle.publish(registered)
    return Response(registered.render(), media_type=CONTENT_TYPE_LATEST)


async def _count_gallery(services: Services) -> None:
    """Bring the size of the gallery up to date; a gallery that does not answer must not cost us the other metrics."""
    try:
        async with asyncio.timeout(COUNT_TIMEOUT_S):
            services.metrics.gallery_items.set(await services.gallery.count())
    except Exception as error:
        services.metrics.gallery_items.set(float("nan"))
        services.logger.warning("gallery not counted", error=repr(error))


def _model(services: Services) -> dict[str, Any]:
    manifest, settings, hub = services.bundle.manifest, services.settings, services.located.hub
    return {
        "bundle": services.name,
        "bundle_hash": services.bundle.hash,
        "hub": asdict(hub) if hub else None,
        "gallery": services.kept is not None,
        "backbone": manifest.backbone.name,
        "dimension": manifest.dimension,
        "preprocessing": manifest.preprocessing.model_dump(),
        "reference": {"dataset": manifest.reference.dataset, "count": manifest.reference.count},
        "training": manifest.training.model_dump(),
        "metrics": manifest.metrics,
        "device": services.session.device.value,
        **{name: getattr(services.session.tuning, name) for name in ("threads", "lanes", "max_batch")},
        "threshold": default_threshold(settings).as_dict(),
        "limits": {name: getattr(settings, name) for name in LIMITS},
        "version": package_version(),
    }
