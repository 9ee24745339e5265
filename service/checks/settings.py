"""Settings: whether they can be used, are known, and mean anything together."""

from collections.abc import Iterator, Mapping
from typing import Final

from models.errors import UserError
from service.checks.findings import Finding, Kind
from service.checks.situation import Situation
from service.naming import read_galleries
from service.settings import Device, Settings, SettingsError, read_settings, unknown_variables, variable
from service.starting import check_start

BASE64: Final = 4 / 3  # how much longer bytes become
OF_SERVERS: Final = frozenset({"gallery_user", "gallery_password", "gallery_tls", "gallery_ca", "gallery_certificate"})
OF_ENGINES: Final = {  # settings that mean something to galleries at these URLs alone
    "postgresql": OF_SERVERS | {"gallery_key", "gallery_pool", "gallery_timeout_s", "gallery_table"},
    "milvus": OF_SERVERS | {"gallery_key", "gallery_timeout_s", "gallery_replicas", "gallery_consistency"},
    "s3": frozenset({"gallery_storage"}),
    "gs": frozenset({"gallery_storage"}),
    "az": frozenset({"gallery_storage"}),
}


def read(given: Mapping[str, object]) -> Settings | list[Finding]:
    """The settings, or what is wrong with each."""
    try:
        settings = read_settings(given)
        check_start(settings)
        return settings
    except (SettingsError, UserError) as error:
        return [Finding(Kind.SETTINGS_REFUSED, line) for line in str(error).splitlines()]


def unknown(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that nothing reads, with the nearest name that exists."""
    for name, nearest in unknown_variables(environment).items():
        hint = f"; perhaps {nearest} was meant" if nearest else ""
        yield Finding(Kind.SETTING_UNKNOWN, f"{name} is ignored{hint}")


def check(situation: Situation) -> Iterator[Finding]:
    """What the settings are, and which of them mean nothing together."""
    settings = situation.settings
    names = sorted(settings.model_fields_set)
    yield Finding(Kind.SETTINGS_READ, f"set: {', '.join(map(variable, names)) if names else 'none, all by default'}")
    for name in without_effect(settings):
        yield Finding(Kind.SETTING_WITHOUT_EFFECT, name)
    if settings.max_image_bytes * BASE64 > settings.max_body_bytes:
        yield Finding(
            Kind.IMAGE_ABOVE_BODY,
            f"an image of {settings.max_image_bytes} bytes is longer in JSON than {settings.max_body_bytes} bytes",
        )


def without_effect(settings: Settings) -> Iterator[str]:
    """What was set in vain, and why."""
    places = read_galleries(settings.gallery).values()
    schemes = {place.partition("://")[0] if "://" in place else "a folder" for place in places}
    known = frozenset().union(*OF_ENGINES.values())
    used = frozenset().union(*(OF_ENGINES.get(scheme, frozenset()) for scheme in schemes))
    for name in sorted(settings.model_fields_set & known - used):
        yield f"{variable(name)} means nothing to a gallery at {' or '.join(sorted(schemes))}"
    if settings.cuda_graphs and settings.device in (Device.CPU, Device.OPENVINO):
        yield f"CANDOR_CUDA_GRAPHS needs a GPU, and CANDOR_DEVICE is {settings.device.value}"
    if settings.max_wait_ms / 1000 >= settings.request_timeout_s:
        yield "CANDOR_MAX_WAIT_MS is as long as CANDOR_REQUEST_TIMEOUT_S: a request could only time out"
