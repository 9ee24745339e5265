"""What is learnt of one request while it is answered, as the metrics, the log and the trace have it."""

import random
import re
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from starlette.types import Scope

from service.errors import Problem
from service.stages import Answered, Stage

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


@dataclass
class Exchange:
    """What is learnt of one request while it is answered."""

    request_id: str
    started: float
    ended: float = 0.0
    status: int = 0
    key: str | None = None  # the name of the API key it came with
    stages: list[Stage] = field(default_factory=list)  # where it is traced

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.started


def request_id_of(given: bytes) -> str:
    """The client's id if it is fit for headers and logs, else a new one."""
    text = given.decode("latin-1")
    return text if REQUEST_ID.fullmatch(text) else f"{random.getrandbits(128):032x}"


def series_of(scope: Scope) -> tuple[str, str]:
    """Method and route as metrics count them: what strangers make up must not grow the number of series."""
    route = scope.get("route")
    if route is None:
        return "any", "unmatched"
    return scope["method"] if scope["method"] in route.methods else "any", route.path


def answered(scope: Scope, exchange: Exchange) -> Answered:
    """A request as its trace has it, in OpenTelemetry's own words where it has them."""
    problem = _problem(scope)
    method = scope["method"] if scope["method"] in METHODS else "_OTHER"
    route = getattr(scope.get("route"), "path", None)
    attributes = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": exchange.status or None,
        "url.scheme": scope["scheme"],
        "candor.request_id": exchange.request_id,
        "candor.key": exchange.key,
        "candor.bundle": scope["state"].get("bundle"),
    }
    return Answered(
        name=" ".join(filter(None, ("HTTP" if method == "_OTHER" else method, route))),
        attributes={name: value for name, value in attributes.items() if value is not None},
        error=problem.type if problem else None,
        failed=exchange.status >= HTTPStatus.INTERNAL_SERVER_ERROR,
        started=exchange.started,
        ended=exchange.ended,
        stages=exchange.stages,
    )


def log_fields(scope: Scope, exchange: Exchange) -> dict[str, Any]:
    """A request's line of the log: neither its path, which may name a person, nor anything else that was sent."""
    problem = _problem(scope)
    fields = {
        "request_id": exchange.request_id,
        "method": scope["method"],
        "route": series_of(scope)[1],
        "status": exchange.status,
        "ms": round(exchange.seconds * 1000, 2),
        "key": exchange.key,
        "bundle": scope["state"].get("bundle"),
        "error": problem.type if problem else None,
        "detail": problem.detail if problem and problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _problem(scope: Scope) -> Problem | None:
    problem: Problem | None = scope["state"].get("problem")
    return problem
