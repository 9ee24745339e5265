"""Settings: `CANDOR_*` environment variables, checked once at start and passed down."""

import difflib
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.bundle import DEFAULT_BUNDLE
from service.gallery.options import Consistency, EngineOptions
from service.naming import read_bundles, read_galleries

PREFIX = "CANDOR_"
OF_CLIENTS = ("server", "key")  # what commands that ask a server read, in the same environment perhaps
MIB = 2**20
ORIGIN: Final = re.compile(r"https?://[^/?#@\s,*]+")


class Device(StrEnum):
    """Where the graph runs."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"


class Decode(StrEnum):
    """How an image becomes pixels."""

    EXACT = "exact"
    FAST = "fast"


class LogFormat(StrEnum):
    """How a log line is written."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class SettingsError(Exception):
    """Settings that cannot be used; the message names each variable and what is wrong with it."""


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


class Settings(BaseSettings):
    """Everything an operator may set; each field is the variable `CANDOR_` + its name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="Address to listen on; `0.0.0.0` for every interface.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one and logs it.")
    bundle: Annotated[str, BeforeValidator(_text)] = Field(
        default=str(DEFAULT_BUNDLE),
        description="Bundles, as `[NAME=]WHERE` with commas between several: a folder, or `org/name[@revision]` of the "
        "Hugging Face hub; the first is the default (docs/bundles.md).",
    )
    gallery: Annotated[str, BeforeValidator(_text)] = Field(
        default="candor-gallery",
        min_length=1,
        description="Galleries, as `[NAME=]LOCATION` with commas between several: a folder (relative to where the "
        "server starts) or a URL: `s3://bucket/path`, `postgresql://host/database`, `milvus://host:19530/collection` "
        "(docs/gallery.md). One without a name is the default bundle's; `{bundle}` and `{hash}` are filled in; "
        "`none`: no gallery.",
    )
    gallery_user: str | None = Field(
        default=None, min_length=1, description="Name to log in to PostgreSQL or Milvus with, in place of the URL's."
    )
    gallery_password: SecretStr | None = Field(
        default=None, min_length=1, description="Password to log in with, in place of the URL's."
    )
    gallery_password_file: Path | None = Field(
        default=None, description="File that the password is in, as containers get secrets; excludes the one above."
    )
    gallery_tls: bool | None = Field(
        default=None,
        description="`true`: encrypted, and the server's certificate verified; `false`: plain; else as the URL says.",
    )
    gallery_ca: Path | None = Field(
        default=None, description="PEM file of authorities for the server's certificate, in place of the system's."
    )
    gallery_certificate: Path | None = Field(
        default=None, description="PEM file of this client's certificate, where PostgreSQL or Milvus asks for one."
    )
    gallery_key: Path | None = Field(default=None, description="PEM file of the client certificate's private key.")
    gallery_pool: int = Field(default=8, ge=1, le=1024, description="Most connections of a worker to PostgreSQL.")
    gallery_timeout_s: float = Field(
        default=10.0, gt=0, description="Seconds that one call of PostgreSQL or Milvus may take (503 beyond)."
    )
    gallery_table: str = Field(
        default="candor_items",
        min_length=1,
        max_length=48,
        description="PostgreSQL's table, `{bundle}` and `{hash}` filled in; made if it is not there.",
    )
    gallery_replicas: int = Field(
        default=1, ge=1, le=64, description="Copies of Milvus's collection in memory, for more queries a second."
    )
    gallery_consistency: Consistency | None = Field(
        default=None,
        description="What a search of Milvus sees: `strong`: all that anybody wrote; `session`: all that this process "
        "wrote; `bounded`: what is there by then. Unset: `strong` with several workers, else `session`.",
    )
    gallery_storage: dict[str, str] = Field(
        default={}, description="What an object store needs, as a JSON object of LanceDB's storage options."
    )
    device: Device = Field(
        default=Device.AUTO,
        description="`cpu`, `cuda`, `tensorrt` or `openvino`, refused at the start where it cannot be had; `auto`: "
        "`cuda` if it works, else `cpu`.",
    )
    cuda_graphs: bool = Field(
        default=False, description="Replay each batch size as one CUDA graph; every operator must run on the GPU."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Processes that serve the port, sharing the cores; on CUDA each takes the next GPU.",
    )
    autotune: bool = Field(
        default=True,
        description="Measure at the first start which threads, lanes and batch size carry most, for those left at 0.",
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="Threads of one inference; 0: tuned, or the worker's share of the cores."
    )
    lanes: int = Field(default=0, ge=0, le=1024, description="Inferences at a time in a worker; 0: tuned, or 1.")
    decode_workers: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads of a worker that decode; 0: none where each core has a lane of one thread, which then "
        "decodes its own images, else one per core of its share.",
    )
    decode: Decode = Field(
        default=Decode.EXACT,
        description="`exact`: the pixels of training; `fast`: large JPEGs at a fraction of their size (docs/speed.md).",
    )
    max_batch: int = Field(
        default=0, ge=0, le=1024, description="Images in one inference; 0: tuned, or 4 on a CPU, 32 on CUDA."
    )
    max_wait_ms: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Milliseconds that an inference may wait to fill its batch, while more images are being decoded "
        "by threads of their own.",
    )
    queue_images: int = Field(
        default=256,
        ge=1,
        description="Images accepted and not yet answered, of each bundle, shared evenly among the workers; a request "
        "beyond that is answered 429.",
    )
    max_image_bytes: int = Field(default=20 * MIB, ge=1, description="Bytes of one encoded image (413 beyond).")
    max_pixels: int = Field(
        default=50_000_000, ge=1, description="Pixels of one image, checked before it is decoded (413 beyond)."
    )
    max_images_per_request: int = Field(default=64, ge=1, description="Images in one request (413 beyond).")
    max_body_bytes: int = Field(default=64 * MIB, ge=1, description="Bytes of a JSON or multipart body (413 beyond).")
    max_uncertainty: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Abstain above this raw uncertainty, where the request names no threshold.",
    )
    max_percentile: float | None = Field(
        default=None, ge=0, le=1, description="Abstain above this percentile of uncertainty; excludes the raw one."
    )
    label_field: str | None = Field(
        default=None, min_length=1, description="Payload field (a dotted path) with an item's label, for policies."
    )
    group_field: str | None = Field(
        default=None, min_length=1, description="Payload field with the group of alike items it belongs to."
    )
    policies: Path | None = Field(
        default=None,
        description="File of certified policies of the default bundle, others' beside it; if unset beside the gallery "
        "where that is a folder, else where the server starts.",
    )
    policy_max_change: float = Field(
        default=0.1, gt=0, le=1, description="Share of the gallery that may change until a policy is stale."
    )
    request_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds from a request's last byte to its answer (504 beyond)."
    )
    upload_timeout_s: float = Field(default=30.0, gt=0, description="Seconds for a body to arrive (408 beyond).")
    drain_timeout_s: float = Field(
        default=30.0, gt=0, description="Seconds that accepted requests are given to finish after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log lines to write; `debug` adds the access lines of probes."
    )
    log_format: LogFormat = Field(
        default=LogFormat.AUTO, description="`json`, `console`, or `auto`: console on a terminal, else JSON."
    )
    api_keys: Path | None = Field(
        default=None,
        description="File of API keys, made with `candor keys add`: requests then need one (docs/security.md).",
    )
    allow_anonymous: bool = Field(
        default=False, description="Listen beyond this machine without API keys, which is refused otherwise."
    )
    allowed_origins: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(),
        description="Origins whose pages may use the server, joined by commas: `https://candor.example.org`.",
    )
    tls_certificate: Path | None = Field(
        default=None, description="PEM file of the server's certificate and those above it: HTTPS in place of HTTP."
    )
    tls_key: Path | None = Field(default=None, description="PEM file of the certificate's private key.")
    tls_key_password: SecretStr | None = Field(default=None, min_length=1, description="Password of that key.")
    tls_client_ca: Path | None = Field(
        default=None, description="PEM file of authorities: clients must then show a certificate of one of them."
    )
    tracing: bool | None = Field(
        default=None,
        description="Send OpenTelemetry traces, as the `OTEL_*` variables say; unset: if they name an endpoint.",
    )

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return frozenset(value.replace(",", " ").lower().split()) if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: frozenset[str]) -> frozenset[str]:
        if wrong := sorted(origin for origin in value if not ORIGIN.fullmatch(origin)):
            raise ValueError(f"{wrong[0]!r} is no origin: write each as https://host or https://host:port")
        return value

    @field_validator("bundle")
    @classmethod
    def _bundles(cls, value: str) -> str:
        read_bundles(value)
        return value

    @field_validator("gallery")
    @classmethod
    def _galleries(cls, value: str) -> str:
        read_galleries(value)
        return value

    @field_validator("gallery_password_file")
    @classmethod
    def _readable(cls, path: Path | None) -> Path | None:
        try:
            if path is not None and not path.read_text().strip():
                raise ValueError(f"{path} is empty")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        return path

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_uncertainty is not None and self.max_percentile is not None:
            raise ValueError("CANDOR_MAX_UNCERTAINTY and CANDOR_MAX_PERCENTILE exclude each other: set one")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("CANDOR_TLS_CERTIFICATE and CANDOR_TLS_KEY belong together: set both")
        if self.tls_certificate is None and (self.tls_client_ca or self.tls_key_password):
            raise ValueError("CANDOR_TLS_CLIENT_CA and CANDOR_TLS_KEY_PASSWORD need CANDOR_TLS_CERTIFICATE")
        if self.gallery_password is not None and self.gallery_password_file is not None:
            raise ValueError("CANDOR_GALLERY_PASSWORD and CANDOR_GALLERY_PASSWORD_FILE exclude each other: set one")
        if self.max_images_per_request > self.queue_images:
            raise ValueError(
                f"CANDOR_MAX_IMAGES_PER_REQUEST ({self.max_images_per_request}) must not be above "
                f"CANDOR_QUEUE_IMAGES ({self.queue_images}), or such a request could never be admitted"
            )
        return self

    @property
    def engine_options(self) -> EngineOptions:
        """How the gallery's engine is reached and kept."""
        alone = Consistency.SESSION if self.workers == 1 else Consistency.STRONG
        return EngineOptions(
            user=self.gallery_user,
            password=self._password,
            tls=self.gallery_tls,
            ca=self.gallery_ca,
            certificate=self.gallery_certificate,
            key=self.gallery_key,
            pool=self.gallery_pool,
            timeout_s=self.gallery_timeout_s,
            table=self.gallery_table,
            replicas=self.gallery_replicas,
            consistency=self.gallery_consistency or alone,
            storage=self.gallery_storage,
        )

    @property
    def scheme(self) -> Literal["http", "https"]:
        """What clients write before the address."""
        return "https" if self.tls_certificate else "http"

    @property
    def _password(self) -> str | None:
        if self.gallery_password_file is not None:
            return self.gallery_password_file.read_text().strip()
        return self.gallery_password.get_secret_value() if self.gallery_password else None

    @property
    def queue_per_worker(self) -> int:
        """Images that each worker accepts: its share, and those of one request at least."""
        return max(self.max_images_per_request, self.queue_images // self.workers)


def read_settings(overrides: Mapping[str, Any]) -> Settings:
    """Settings from the environment, `overrides` (from the command line) before it.

    Raises:
        SettingsError: one line per variable at fault.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(_problem(item["loc"], item["msg"]) for item in error.errors())) from error


def _problem(location: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ")
    return f"{variable(str(location[0]))}: {text}" if location else text


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str | None]:
    """`CANDOR_*` variables that no field reads -> the nearest one that exists, or None."""
    fields = list(Settings.model_fields)
    given = {name: name.upper().removeprefix(PREFIX).lower() for name in environment if name.upper().startswith(PREFIX)}
    nearest = {
        name: difflib.get_close_matches(field, fields, n=1)
        for name, field in given.items()
        if field not in (*fields, *OF_CLIENTS)
    }
    return {name: variable(matches[0]) if matches else None for name, matches in sorted(nearest.items())}
