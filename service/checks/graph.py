"""A bundle's graph, opened as the server opens it but for the measuring."""

from collections.abc import Iterator

from models.bundle import Bundle
from service.checks.findings import Finding, Kind
from service.providers import GPU, missing_for
from service.session import SessionError, is_int8, known_tuning, open_session
from service.settings import Device, Settings
from service.tuning import cache_folder


def examine(bundle: Bundle, settings: Settings) -> Iterator[Finding]:
    """Whether it runs and says what it should, and how it is laid out; on the CPU, where the device is missing."""
    if missing_for(settings.device if settings.device is not Device.AUTO else Device.CPU):
        settings = settings.model_copy(update={"device": Device.CPU})
    try:
        device = open_session(bundle, settings.model_copy(update={"autotune": False})).device
    except SessionError as error:
        yield Finding(Kind.GRAPH_REFUSED, str(error))
        return
    agrees = "" if device is Device.CPU else ", and agrees with the CPU"
    yield Finding(Kind.GRAPH_RUNS, f"it runs on {device.value}, finite and of unit length{agrees}")
    if device in GPU and is_int8(bundle):
        yield Finding(Kind.INT8_ON_GPU, f"{bundle.manifest.name} is in int8, and runs on {device.value}")
    if device is Device.CPU and not is_int8(bundle):
        yield Finding(Kind.FLOAT_ON_CPU, f"{bundle.manifest.name} is in float32, and runs on the CPU")
    yield _layout(bundle, settings, device)


def _layout(bundle: Bundle, settings: Settings, device: Device) -> Finding:
    tuning = known_tuning(bundle, settings, device)
    if tuning is None:
        return Finding(Kind.TUNING_DUE, f"nothing is kept in {cache_folder()} for this bundle, machine and settings")
    return Finding(
        Kind.TUNING_SETTLED,
        f"{tuning.threads} thread(s) of one inference, {tuning.lanes} lane(s), batches of {tuning.max_batch} at most",
    )
