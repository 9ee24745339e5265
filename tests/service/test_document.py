"""`openapi.json`: it is what the server says of itself, and what it says holds together."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest

from service.document import render


@pytest.fixture(scope="module")
def document(repository: Path) -> Any:
    return orjson.loads((repository / "openapi.json").read_bytes())


def test_the_file_in_the_repository_is_what_the_server_says(repository: Path) -> None:
    assert (repository / "openapi.json").read_bytes() == render(), "openapi.json is out of date: run `make openapi`"


def test_nothing_in_it_depends_on_settings(tmp_path: Path, repository: Path) -> None:
    settings = {"CANDOR_BUNDLE": str(tmp_path), "CANDOR_MAX_PERCENTILE": "0.5"}
    written = tmp_path / "written.json"
    command = [sys.executable, "-m", "service.document", str(written)]
    subprocess.run(command, cwd=repository, env={**os.environ, **settings}, check=True)

    assert written.read_bytes() == render()


def test_every_example_is_valid(document: Any) -> None:
    examples = [
        (f"{method} {path}", content)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        for content in operation.get("requestBody", {}).get("content", {}).values()
        if "example" in content
    ]

    assert len(examples) >= 8
    for where, content in examples:
        schema = {**content["schema"], "components": document["components"]}
        errors = [error.message for error in jsonschema_rs.iter_errors(schema, content["example"])]
        assert errors == [], where


def test_every_endpoint_that_takes_a_key_says_that_it_may_refuse(document: Any) -> None:
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    for path, item in document["paths"].items():
        for operation in item.values():
            probe = path in {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
            assert ("401" in operation["responses"]) is not probe, path


def test_each_protocols_errors_have_its_shape(document: Any) -> None:
    for path, item in document["paths"].items():
        shape = "OpenAIError" if path.startswith("/v1") else "KServeError" if path.startswith("/v2") else "ProblemBody"
        for operation in item.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    (content,) = response["content"].values()
                    assert content["schema"] == {"$ref": f"#/components/schemas/{shape}"}, (path, status)
