"""Many images or items in requests of some: grouped to fit, and in halves where the server refuses a request whole."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

from scripts.client.attempts import Patience, Steps, attempts
from scripts.client.calls import NewItem, item_json
from scripts.client.errors import ApiError, Unreadable
from scripts.client.images import Image, image_bytes
from scripts.client.results import Model
from scripts.client.wire import Call

Source = TypeVar("Source")
Value = TypeVar("Value")
Failure: TypeAlias = ApiError | Unreadable
Pair: TypeAlias = tuple[Source, Value | Failure]
Make: TypeAlias = Callable[[Sequence[bytes]], Call[list[Value | ApiError]]]

DIVISIBLE: Final = (408, 413, 415, 422, 500, 504)  # which may be the fault of one image, or of their number
BYTES: Final = 8 * 2**20


@dataclass(frozen=True)
class Loaded(Generic[Source]):
    """What was given, and what of it is sent."""

    source: Source
    data: bytes | Unreadable

    @property
    def size(self) -> int:
        """Bytes to send."""
        return len(self.data) if isinstance(self.data, bytes) else 0


@dataclass(frozen=True)
class Room:
    """How much goes into one request."""

    images: int
    bytes: int


def room_of(model: Model, batch: int) -> Room:
    """At most `batch` images, and no more than the server takes; base64 needs a third more than the bytes."""
    images, size = (model.limits.get(name) for name in ("max_images_per_request", "max_body_bytes"))
    return Room(int(min(batch, images or batch)), int(min(BYTES, (size or 2 * BYTES) / 2)))


def load_image(image: Image) -> bytes | Unreadable:
    """The bytes of an image, or why there are none."""
    try:
        return image_bytes(image)
    except Unreadable as error:
        return error


def load_item(item: NewItem) -> bytes | Unreadable:
    """The JSON of an item, or why there is none."""
    try:
        return item_json(item)
    except Unreadable as error:
        return error


def groups(
    sources: Iterable[Source], load: Callable[[Source], bytes | Unreadable], room: Room
) -> Iterator[list[Loaded[Source]]]:
    """What is given, loaded as it is needed, in groups within the room, one at least."""
    group: list[Loaded[Source]] = []
    size = 0
    for source in sources:
        loaded = Loaded(source, load(source))
        if group and (len(group) >= room.images or size + loaded.size > room.bytes):
            yield group
            group, size = [], 0
        group.append(loaded)
        size += loaded.size
    if group:
        yield group


def outcomes(
    group: Sequence[Loaded[Source]], make: Make[Value], patience: Patience
) -> Steps[list[Pair[Source, Value]]]:
    """The steps to what became of each, in order.

    Raises:
        ServerError: where another request would not fare better.
    """
    sent = [each.data for each in group if isinstance(each.data, bytes)]
    answered = iter((yield from _divided(sent, make, patience)))
    return [(each.source, next(answered) if isinstance(each.data, bytes) else each.data) for each in group]


def _divided(sent: Sequence[bytes], make: Make[Value], patience: Patience) -> Steps[list[Value | ApiError]]:
    if not sent:
        return []
    try:
        return (yield from attempts(make(sent), patience))
    except ApiError as error:
        if error.status not in DIVISIBLE:
            raise
        if len(sent) == 1:
            return [error]
    half = len(sent) // 2
    first = yield from _divided(sent[:half], make, patience)
    return first + (yield from _divided(sent[half:], make, patience))
