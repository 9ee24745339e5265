"""`python -m service.document FILE`: write the description of the HTTP API, as `/openapi.json` gives it."""

import sys
from pathlib import Path

import orjson

from service.app import create_app
from service.settings import Settings


def render() -> bytes:
    """The OpenAPI document as indented JSON; nothing in it depends on settings, bundles or the machine."""
    document = create_app(Settings()).openapi()
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(render())
