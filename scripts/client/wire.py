"""What goes to a server and what comes back, as data: no connection is needed to make or to read any of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, cached_property
from typing import Any, Generic, TypeVar, cast

import orjson
from pydantic import TypeAdapter, ValidationError

from scripts.client.errors import ApiError, Unintelligible

Value = TypeVar("Value")


@dataclass(frozen=True)
class Request:
    """A request: `path` is percent-encoded, `files` are the images of a form."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    content_type: str | None = None
    files: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Answer:
    """What a server said, whatever its status; names of headers in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def json(self) -> Any:
        """The body, which is JSON."""
        return orjson.loads(self.body)

    @property
    def retry_after_s(self) -> float | None:
        """When to ask again; None where the answer does not say."""
        text = self.headers.get("retry-after", "").strip()
        if text.isdecimal():
            return float(text)
        try:
            then = parsedate_to_datetime(text)
        except ValueError:
            return None
        return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


@dataclass(frozen=True)
class Call(Generic[Value]):
    """A request and how its answer is read; one that is `repeatable` does no harm when it is made twice."""

    request: Request
    read: Callable[[Answer], Value]
    repeatable: bool = True

    def understood(self, answer: Answer) -> Value:
        """What an answer says.

        Raises:
            Unintelligible: where it is not what candor says.
        """
        try:
            return self.read(answer)
        except (ValidationError, LookupError, TypeError, ValueError) as error:
            raise Unintelligible(f"{self.request}: the answer is not candor's: {error}") from error


def refusal(request: Request, answer: Answer) -> ApiError:
    """The error that an answer is."""
    try:
        kind, title, detail = _said(answer.json)
    except (LookupError, TypeError, ValueError):
        kind, title, detail = f"http_{answer.status}", "The server refused", _beginning(answer.body)
    return ApiError(
        f"{request} was answered {answer.status}: {detail}",
        status=answer.status,
        type=kind,
        title=title,
        detail=detail,
        request_id=answer.headers.get("x-request-id"),
        retry_after_s=answer.retry_after_s,
    )


def refused_alone(error: Mapping[str, Any]) -> ApiError:
    """The error of one image or item of many."""
    kind, title, detail = _said(error)
    return ApiError(f"{kind}: {detail}", status=int(error["status"]), type=kind, title=title, detail=detail)


def parsed(kind: type[Value], content: Any) -> Value:
    """JSON as the dataclass of that kind; members that it does not name are left out."""
    value: Value = _adapter(cast(Any, kind)).validate_python(content)
    return value


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _said(error: Any) -> tuple[str, str, str]:
    return str(error["type"]), str(error["title"]), str(error["detail"])


def _beginning(body: bytes) -> str:
    return body[:200].decode(errors="replace") or "nothing more was said"
