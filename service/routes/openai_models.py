"""`GET /v1/models`: the served bundles, as OpenAI's clients list them."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request

from service.lifecycle import Services, served, services_of
from service.openai_schemas import OpenAIModel, OpenAIModels
from service.openapi import errors

router = APIRouter(tags=["openai"])


@router.get("/v1/models", responses={200: {"model": OpenAIModels}, **errors(401, 503, protocol="openai")})
async def list_models(request: Request) -> dict[str, Any]:
    """Every served bundle, the default one first."""
    return {"object": "list", "data": [_described(services) for services in served(request)]}


@router.get("/v1/models/{model}", responses={200: {"model": OpenAIModel}, **errors(401, 404, 503, protocol="openai")})
async def get_model(request: Request, model: str) -> dict[str, Any]:
    """One served bundle."""
    return _described(services_of(request, model))


def _described(services: Services) -> dict[str, Any]:
    created = _seconds(services.bundle.manifest.created)
    return {"id": services.name, "object": "model", "created": created, "owned_by": "candor"}


def _seconds(created: str) -> int:
    """A manifest's time as seconds of the epoch; 0 where it has none."""
    try:
        return int(datetime.fromisoformat(created).timestamp())
    except ValueError:
        return 0
