"""Multipart bodies, parsed by python-multipart: the files they carry, and the text fields beside them."""

from dataclasses import dataclass
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import Malformed

MAX_PARTS: Final = 2048


@dataclass(frozen=True)
class File:
    """A part of a multipart body that holds a file."""

    name: str
    filename: str
    data: bytes


def parse_multipart(body: bytes, content_type: str) -> tuple[list[File], dict[str, str]]:
    """A multipart/form-data body to its files, and its text fields.

    Raises:
        Malformed: for one that breaks the format, ends early, has more than `MAX_PARTS` parts, or a field twice.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise Malformed("multipart/form-data needs a boundary in its Content-Type")
    collector = _PartCollector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise Malformed(f"the multipart body is broken: {error}") from error
    if not collector.complete:
        raise Malformed("the multipart body ends before its last boundary")
    return collector.files, collector.fields


class _PartCollector:
    """Gathers what the multipart parser calls out."""

    def __init__(self) -> None:
        self.files: list[File] = []
        self.fields: dict[str, str] = {}
        self.complete = False
        self._parts = 0
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._data = bytearray()

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._data.extend(memoryview(data)[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Malformed(f"the multipart body has more than {MAX_PARTS} parts")
        self._disposition, self._data = b"", bytearray()

    def _end_header(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = (bytearray(), bytearray())

    def _end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if not name:
            raise Malformed("a part of the multipart body has no name")
        if b"filename" in options:
            self.files.append(File(name, options[b"filename"].decode("utf-8", "replace"), bytes(self._data)))
        elif name in self.fields:
            raise Malformed(f"the field {name} is given twice")
        else:
            self.fields[name] = self._data.decode("utf-8", "replace")

    def _finish(self) -> None:
        self.complete = True
