"""Whether requests are traced, and by what."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from service.settings import Settings, SettingsError
from service.stages import Answered

if TYPE_CHECKING:
    from service.spans import Spans

Trace = Callable[[Answered, Mapping[bytes, bytes]], str]
"""Told of each request once it is answered, with its headers; the id of its trace."""

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def open_tracing(settings: Settings, environment: Mapping[str, str]) -> "Spans | None":
    """What traces requests, if they are to be traced.

    Raises:
        SettingsError: where OpenTelemetry is not installed.
    """
    return load_tracing()() if wants_tracing(settings, environment) else None


def wants_tracing(settings: Settings, environment: Mapping[str, str]) -> bool:
    """What the setting says, or else whether OpenTelemetry's own variables say where to send traces."""
    if settings.tracing is not None:
        return settings.tracing
    return any(environment.get(name) for name in ENDPOINTS)


def load_tracing() -> "type[Spans]":
    """OpenTelemetry, which only a server that traces has in its memory.

    Raises:
        SettingsError: where it is not installed.
    """
    try:
        from service.spans import Spans
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"traces need {error.name}, which is not installed: pip install 'candor[otel]', or set CANDOR_TRACING=false"
        ) from error
    return Spans
