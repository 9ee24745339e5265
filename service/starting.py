"""What must hold before anything is loaded: keys, certificates, tracing, and who may reach the port."""

import os

from service.access import is_loopback
from service.keys import read_keys
from service.settings import Settings, SettingsError
from service.tls import server_context
from service.tracing import load_tracing, wants_tracing


def check_start(settings: Settings) -> None:
    """Return if all that does not need loading is as it must be.

    Raises:
        SettingsError, UserError: that say what to do.
    """
    if settings.api_keys is not None:
        read_keys(settings.api_keys)
    elif not (settings.allow_anonymous or is_loopback(settings.host)):
        raise SettingsError(
            f"CANDOR_HOST={settings.host} lets other machines in, and there are no API keys: set CANDOR_API_KEYS to a "
            "file made with `candor keys add`, or CANDOR_ALLOW_ANONYMOUS=true if anybody may use this server"
        )
    server_context(settings)
    if wants_tracing(settings, os.environ):
        load_tracing()
