"""Every way a request can fail: one typed tree, which `rendering.py` alone turns into bytes."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from models.images import ImageError
from service.gallery.base import FilterError, GalleryError, GalleryUnavailable, NoRoom

GALLERY_RETRY_S = 2.0


class Problem(Exception):
    """A request, or one image of it, that is not answered as asked; subclasses say which status and type it has."""

    status: int = 500
    type: str = "internal_error"
    title: str = "The server failed"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None, **members: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def as_dict(self) -> dict[str, Any]:
        """The JSON object, less the request's id: also the `error` of one image among many."""
        return {"type": self.type, "title": self.title, "status": self.status, "detail": self.detail, **self.members}


class InternalError(Problem):
    """A defect of candor's; the log has the traceback under the request's id."""


class InferenceFailed(Problem):
    """The session failed on this image, or gave numbers that are not finite."""

    type = "inference_failed"
    title = "The model failed on this image"


class GalleryFailed(Problem):
    """The gallery could not do what was asked; nothing of this request was acknowledged."""

    type = "gallery_failed"
    title = "The gallery failed"


class Malformed(Problem):
    """The request cannot be read as what it claims to be."""

    status = 400
    type = "malformed_request"
    title = "The request cannot be read"


class InvalidOption(Problem):
    """An option is unknown, of the wrong type, out of range, or in conflict with another."""

    status = 400
    type = "invalid_option"
    title = "An option is not valid"


class InvalidFilter(Problem):
    """The gallery cannot read the filter."""

    status = 400
    type = "invalid_filter"
    title = "The filter cannot be read"


class InvalidVector(Problem):
    """A vector of the wrong length, or one that has no direction."""

    status = 400
    type = "invalid_vector"
    title = "The vector is not usable"


class InvalidId(Problem):
    """An id that cannot be stored."""

    status = 400
    type = "invalid_id"
    title = "The id is not usable"


class Unauthorized(Problem):
    """No API key, or the wrong one."""

    status = 401
    type = "unauthorized"
    title = "An API key is needed"


class Forbidden(Problem):
    """An API key that is not for this; or, on a server without keys, a page of another site."""

    status = 403
    type = "forbidden"
    title = "This is not allowed"


class NotFound(Problem):
    """No such path."""

    status = 404
    type = "not_found"
    title = "There is nothing here"


class UnknownId(Problem):
    """No item of that id in the gallery."""

    status = 404
    type = "unknown_id"
    title = "The gallery has no such item"


class UnknownBundle(Problem):
    """No bundle of that name is served."""

    status = 404
    type = "unknown_bundle"
    title = "No such bundle is served here"


class NoGallery(Problem):
    """The bundle is served without a gallery."""

    status = 404
    type = "no_gallery"
    title = "This bundle has no gallery"


class MethodNotAllowed(Problem):
    """The path exists, the method on it does not."""

    status = 405
    type = "method_not_allowed"
    title = "This path does not take this method"


class UploadTimeout(Problem):
    """The body did not arrive in time."""

    status = 408
    type = "upload_timeout"
    title = "The upload took too long"


class ReloadFailed(Problem):
    """The bundles or galleries as they are now cannot be served; the server goes on with those it has."""

    status = 409
    type = "reload_failed"
    title = "The reload failed"


class BodyTooLarge(Problem):
    """More bytes than the server takes, found before or while they arrive."""

    status = 413
    type = "body_too_large"
    title = "The body is too large"


class ItemTooLarge(Problem):
    """The gallery's engine has no room for an item of such a payload."""

    status = 413
    type = "item_too_large"
    title = "The item is too large for the gallery"


class TooManyImages(Problem):
    """More images than one request may hold."""

    status = 413
    type = "too_many_images"
    title = "The request holds too many images"


class UnsupportedMedia(Problem):
    """A content type or encoding that the path does not take."""

    status = 415
    type = "unsupported_media_type"
    title = "The content type is not supported"


class Abstained(Problem):
    """The image is above the threshold, and the request asked for an error, or to store nothing, in that case."""

    status = 422
    type = "abstained"
    title = "The image is too uncertain"


class Overloaded(Problem):
    """The queue has no room for the images of this request; none of them was taken."""

    status = 429
    type = "overloaded"
    title = "The queue is full"


class Unavailable(Problem):
    """The server is loading, draining or unwell."""

    status = 503
    type = "unavailable"
    title = "The server takes no requests now"


class GalleryUnreachable(Problem):
    """The gallery's engine cannot be reached or gives no answer; a write may have happened or not: send it again."""

    status = 503
    type = "gallery_unavailable"
    title = "The gallery cannot be reached"


class DeadlineExceeded(Problem):
    """The answer was not ready in time."""

    status = 504
    type = "deadline_exceeded"
    title = "The answer took too long"


class ClientGone(Problem):
    """The client closed the connection; nobody reads this answer, the status is for metrics and logs."""

    status = 499
    type = "client_gone"
    title = "The client closed the connection"


class UnreadableImage(Problem):
    """An image that the decoder refused: `type`, `title` and `status` are the decoder's."""

    def __init__(self, error: ImageError) -> None:
        super().__init__(error.detail)
        self.type, self.title, self.status = error.type, error.title, error.status


class ImageAtFault(Problem):
    """An image with whose error the whole request fails, as in protocols that have none for one image among many.

    `type` and `title` are that error's; the status is 400 where the image is to blame, as such protocols want it.
    """

    def __init__(self, problem: Problem, param: str, hint: str = "") -> None:
        super().__init__(f"{param}: {problem.detail}{hint}", headers=problem.headers, param=param, **problem.members)
        self.type, self.title = problem.type, problem.title
        self.status = 400 if problem.status < 500 else problem.status


def retry_after(seconds: float) -> dict[str, str]:
    """The header that says when to try again, in whole seconds, at least one."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def as_problem(error: Exception) -> Problem | None:
    """What an endpoint, the gallery or the framework raised, as a client should see it; None for a defect of ours."""
    match error:
        case Problem():
            return error
        case FilterError():
            return InvalidFilter(str(error))
        case NoRoom():
            return ItemTooLarge(str(error))
        case GalleryUnavailable():
            return GalleryUnreachable(str(error), headers=retry_after(GALLERY_RETRY_S))
        case GalleryError():
            return GalleryFailed(str(error))
        case HTTPException():
            return _from_http_exception(error)
        case RequestValidationError():
            return InvalidOption("; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors()))
        case _:
            return None


def _from_http_exception(error: HTTPException) -> Problem:
    headers = error.headers or {}
    if error.status_code == HTTPStatus.NOT_FOUND:
        return NotFound("no such path; /docs lists them all", headers=headers)
    return Malformed(str(error.detail), headers=headers)


def _method_not_allowed(error: HTTPException, path: str, routes: Sequence[APIRoute]) -> MethodNotAllowed:
    """With every method that the path takes: the framework names those of one route alone."""
    named = (error.headers or {}).get("Allow", "").split(", ")
    methods = {*named, *(name for route in routes if route.path_regex.match(path) for name in route.methods or ())}
    allowed = ", ".join(sorted(methods))
    return MethodNotAllowed(f"this path takes {allowed}", headers={"Allow": allowed})


def leave_errors_to_front(app: FastAPI, routes: Sequence[APIRoute]) -> None:
    """Keep the framework from answering its own errors: the front middleware answers all; `routes` are the app's."""

    @app.exception_handler(HTTPException)
    @app.exception_handler(RequestValidationError)
    async def pass_on(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            raise _method_not_allowed(error, request.url.path, routes)
        raise error
