"""The one place where an error becomes bytes, in the shape of the protocol that the path belongs to."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import orjson
from fastapi import Response

from service.errors import Problem

PROBLEM_JSON: Final = "application/problem+json"
JSON: Final = "application/json"
OPENAI_TYPES: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


def error_response(problem: Problem, request_id: str, path: str) -> Response:
    """An error as the clients of a path read it: OpenAI's below /v1, KServe's below /v2, else RFC 9457."""
    media_type = JSON
    if path.startswith("/v1/"):
        content = _as_openai(problem)
    elif path == "/v2" or path.startswith("/v2/"):
        content = {"error": f"{problem.detail} ({problem.type})"}
    else:
        content, media_type = {**problem.as_dict(), "request_id": request_id}, PROBLEM_JSON
    return Response(orjson.dumps(content), status_code=problem.status, headers=problem.headers, media_type=media_type)


def _as_openai(problem: Problem) -> dict[str, Any]:
    other = "server_error" if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return {
        "error": {
            "message": problem.detail,
            "type": OPENAI_TYPES.get(problem.status, other),
            "param": problem.members.get("param"),
            "code": problem.type,
        }
    }
