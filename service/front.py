"""The outermost layer of every request: its id, who may come in, counting, the log line, the last resort on errors.

The endpoints that carry the load read their requests themselves, and are called from here: FastAPI's way to them, which
has nothing to add, takes as long as all the rest of the server's own work.
"""

import asyncio
import hmac
import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import InternalError, Unauthorized, as_problem
from service.lifecycle import Lifecycle, draining
from service.rendering import error_response
from service.settings import Settings
from service.telemetry import Logger, Metrics

REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
HEALTH: Final = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
PROBES: Final = HEALTH | {"/metrics"}  # answered while draining, logged at debug
OPEN_PATHS: Final = HEALTH | {"/docs", "/openapi.json"}  # answered without an API key
LINGER_S: Final = 1.0  # a refused body is read and dropped this long, so that the client sees the refusal, not a reset


@dataclass
class _Exchange:
    """What is learnt of one request while it is answered."""

    request_id: str
    started: float
    status: int = 0


class Front:
    """Pure ASGI middleware; it never reads or copies a body.

    `direct` are routes of one fixed path whose endpoints take a request and nothing else.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        direct: Iterable[APIRoute],
        settings: Settings,
        lifecycle: Lifecycle,
        metrics: Metrics,
        logger: Logger,
    ) -> None:
        self._app = app
        self._direct = {(method, route.path): route for route in direct for method in route.methods or ()}
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._logger = logger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        exchange = _Exchange(_request_id(headers.get(b"x-request-id", b"")), time.perf_counter())
        scope.setdefault("state", {})["request_id"] = exchange.request_id
        self._lifecycle.in_flight += 1
        try:
            await self._answer(scope, headers, receive, self._noting(exchange, send), exchange)
        finally:
            self._lifecycle.in_flight -= 1
            self._record(scope, exchange)

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send, exchange: _Exchange
    ) -> None:
        try:
            await self._admit(scope["path"], headers, receive)
            await self._handle(scope, receive, send)
        except asyncio.CancelledError:  # the server's time to drain is over
            if not exchange.status:
                await error_response(draining(), exchange.request_id, scope["path"])(scope, receive, send)
            raise
        except Exception as error:
            problem = as_problem(error)
            if problem is None:
                self._logger.error("unhandled error", request_id=exchange.request_id, exc_info=error)
                if exchange.status:
                    raise  # half an answer is out: only closing the connection tells the client
                problem = InternalError("a defect of the server's; its log has the details under this request_id")
            scope["state"]["problem"] = problem
            await error_response(problem, exchange.request_id, scope["path"])(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._direct.get((scope["method"], scope["path"]))
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    async def _admit(self, path: str, headers: dict[bytes, bytes], receive: Receive) -> None:
        if self._lifecycle.draining and path not in PROBES:
            await _discard_body(receive)
            raise draining()
        if self._key is not None and path not in OPEN_PATHS and not _has_key(headers, self._key):
            raise Unauthorized(
                "send the key as `Authorization: Bearer KEY`", headers={"WWW-Authenticate": 'Bearer realm="candor"'}
            )

    def _noting(self, exchange: _Exchange, send: Send) -> Send:
        """`send` that notes the status and adds the headers of every answer."""

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                added = [(b"x-request-id", exchange.request_id.encode())]
                if self._lifecycle.draining:
                    added.append((b"connection", b"close"))  # the client's next request goes elsewhere
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        return noting

    def _record(self, scope: Scope, exchange: _Exchange) -> None:
        seconds = time.perf_counter() - exchange.started
        method, route = scope["method"], getattr(scope.get("route"), "path", "unmatched")
        if route == "unmatched":
            method = "any"  # what strangers send must not grow the number of series
        self._metrics.requests.labels(method, route, exchange.status).inc()
        self._metrics.request_seconds.labels(method, route).observe(seconds)
        fields: dict[str, Any] = {
            "request_id": exchange.request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": exchange.status,
            "ms": round(seconds * 1000, 2),
        }
        problem = scope["state"].get("problem")
        if problem is not None:
            fields |= {"error": problem.type, "detail": problem.detail}
        (self._logger.debug if scope["path"] in PROBES else self._logger.info)("request", **fields)


def _request_id(given: bytes) -> str:
    """The client's id if it is fit for headers and logs, else a new one."""
    text = given.decode("latin-1")
    return text if REQUEST_ID.fullmatch(text) else f"{random.getrandbits(128):032x}"


def _has_key(headers: dict[bytes, bytes], key: bytes) -> bool:
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), key)


async def _discard_body(receive: Receive) -> None:
    """Read a body and drop it, for `LINGER_S` at most: closing on unread bytes would reset the connection."""
    try:
        async with asyncio.timeout(LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass
    except TimeoutError:
        return
