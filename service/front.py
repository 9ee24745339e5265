"""The outermost layer of every request: its id, who may come in, counting, the log line, the last resort on errors.

The endpoints that carry the load read their requests themselves, and are called from here: FastAPI's way to them, which
has nothing to add, takes as long as all the rest of the server's own work.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Final

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access import HEALTH, Access
from service.errors import InternalError, as_problem
from service.exchange import Exchange, answered, log_fields, request_id_of, series_of
from service.lifecycle import Lifecycle, draining
from service.rendering import error_response
from service.stages import NOTED
from service.telemetry import Logger, Metrics
from service.tracing import Trace

PROBES: Final = HEALTH | {"/metrics"}  # answered while draining, logged at debug
LINGER_S: Final = 1.0  # a refused body is read and dropped this long, so that the client sees the refusal, not a reset


class Front:
    """Pure ASGI middleware; it never reads or copies a body.

    `direct` are routes of one fixed path whose endpoints take a request and nothing else.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        direct: Iterable[APIRoute],
        access: Access,
        lifecycle: Lifecycle,
        metrics: Metrics,
        logger: Logger,
        trace: Trace | None = None,
    ) -> None:
        self._app = app
        self._direct = {(method, route.path): route for route in direct for method in route.methods or ()}
        self._access = access
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._logger = logger
        self._trace = trace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        exchange = Exchange(request_id_of(headers.get(b"x-request-id", b"")), time.perf_counter())
        generation = self._lifecycle.enter()
        scope.setdefault("state", {}).update(request_id=exchange.request_id, generation=generation)
        if self._trace is not None:
            NOTED.set(exchange.stages)  # for this request's task and those it starts
        try:
            await self._answer(scope, headers, receive, self._noting(exchange, send), exchange)
        finally:
            del scope["state"]["generation"]  # a connection that idles keeps its last request's state
            self._lifecycle.leave(generation)
            self._record(scope, headers, exchange)

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send, exchange: Exchange
    ) -> None:
        try:
            await self._refuse_if_draining(scope["path"], receive)
            exchange.key = self._access.admit(scope["method"], scope["path"], headers)
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

    async def _refuse_if_draining(self, path: str, receive: Receive) -> None:
        if self._lifecycle.draining and path not in PROBES:
            await _discard_body(receive)
            raise draining()

    def _noting(self, exchange: Exchange, send: Send) -> Send:
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

    def _record(self, scope: Scope, headers: Mapping[bytes, bytes], exchange: Exchange) -> None:
        exchange.ended = time.perf_counter()
        method, route = series_of(scope)
        self._metrics.requests.labels(method, route, exchange.status).inc()
        self._metrics.request_seconds.labels(method, route).observe(exchange.seconds)
        fields = log_fields(scope, exchange)
        if self._trace is not None:
            fields["trace_id"] = self._trace(answered(scope, exchange), headers)
        self._logger.debug("path", request_id=exchange.request_id, path=scope["path"])
        (self._logger.debug if scope["path"] in PROBES else self._logger.info)("request", **fields)


async def _discard_body(receive: Receive) -> None:
    """Read a body and drop it, for `LINGER_S` at most: closing on unread bytes would reset the connection."""
    try:
        async with asyncio.timeout(LINGER_S):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass
    except TimeoutError:
        return
