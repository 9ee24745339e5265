"""The paths of a bundle, and of a version of it: its hash, so that who names one gets no other bundle's numbers."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request

from service.errors import UnknownBundle
from service.lifecycle import Services, services_of

NAME: Final = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
VERSION: Final = {**NAME, "name": "version", "description": "The bundle's hash."}

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def of_bundle(
    router: APIRouter, method: str, path: str, *, parameters: tuple[Any, ...] = (), body: Any = None, **options: Any
) -> Callable[[Endpoint], Endpoint]:
    """Declare an endpoint below a bundle, and below a version of it."""

    def declare(endpoint: Endpoint) -> Endpoint:
        for place, names in (("", (NAME,)), ("/versions/{version}", (NAME, VERSION))):
            extra: dict[str, Any] = {"parameters": [*names, *parameters]}
            if body is not None:
                extra["requestBody"] = body
            router.add_api_route(
                "/v2/models/{name}" + place + path, endpoint, methods=[method], openapi_extra=extra, **options
            )
        return endpoint

    return declare


def services_in(request: Request) -> Services:
    """What to serve such a path with.

    Raises:
        Unavailable: while loading.
        UnknownBundle: where no such bundle is served, or not in that version.
    """
    name, version = request.path_params["name"], request.path_params.get("version")
    services = services_of(request, name)
    if version not in (None, services.bundle.hash):
        raise UnknownBundle(f"{name!r} is served in version {services.bundle.hash} alone, not {version!r}")
    return services
