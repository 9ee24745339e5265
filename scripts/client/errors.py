"""What can go wrong when a server is asked: one typed tree."""

from models.errors import UserError


class ServerError(UserError):
    """A server that could not be asked, or did not answer as asked."""


class Unreachable(ServerError):
    """Nobody answers at that address or in time, or the connection broke off: a request may have had its effect."""


class Untrusted(ServerError):
    """The server's certificate is not trusted; nothing was sent."""


class Unintelligible(ServerError):
    """What answered does not speak as candor does."""


class ApiError(ServerError):
    """What the server refused: a request, or one image or item of many.

    Args:
        message: for people, all in one.
        status: of HTTP.
        type: what went wrong, as docs/http.md lists; `http_STATUS` where what refused is no candor.
        title: the type in words.
        detail: what went wrong this time, and what to do.
        request_id: the request's, under which the server logged it; None for one image of many.
        retry_after_s: when the server asks to be asked again.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str,
        title: str,
        detail: str,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class Unreadable(UserError):
    """An image or item that cannot be sent: no such file, an array of another shape, a payload that is no JSON."""

    type = "unreadable"

    @property
    def detail(self) -> str:
        """What is wrong with it."""
        return str(self)
