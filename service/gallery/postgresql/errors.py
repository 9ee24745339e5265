"""asyncpg's errors as the gallery's: `GalleryUnavailable` for what may pass by itself, the rest for people to mend."""

import contextlib
import ssl
from collections.abc import Iterator
from typing import Final

import asyncpg

from service.gallery.base import GalleryError, GalleryUnavailable

CONFLICTS: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
PASSING: Final = (
    *CONFLICTS,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # starting, shutting down, statement_timeout
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, until it is promoted or another server is
    asyncpg.TargetServerAttributeNotMatched,
    asyncpg.InterfaceError,  # a connection lost between two statements
    asyncpg.InternalClientError,
    OSError,
)
MISUSE: Final = (asyncpg.DataError, asyncpg.ClientConfigurationError)


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Raise what asyncpg raises as an error of the gallery's that names the server.

    Raises:
        GalleryUnavailable: where the server cannot be reached, does not answer in time, or does not take this now.
        GalleryError: where it refuses, or fails otherwise.
    """
    try:
        yield
    except TimeoutError as error:
        raise GalleryUnavailable(f"PostgreSQL at {name} did not answer in time") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, ValueError) as error:
        raise _translate(error, name) from error


def _translate(error: Exception, name: str) -> GalleryError:
    match error:
        case ssl.SSLCertVerificationError():
            return GalleryError(
                f"the certificate of PostgreSQL at {name} is not trusted ({error.verify_message}): set "
                "CANDOR_GALLERY_CA to the PEM file of its authority"
            )
        case asyncpg.InvalidAuthorizationSpecificationError():
            return GalleryError(
                f"PostgreSQL at {name} refused the login ({error}): set CANDOR_GALLERY_USER and CANDOR_GALLERY_PASSWORD"
            )
        case asyncpg.InvalidCatalogNameError():
            return GalleryError(f"PostgreSQL at {name}: {error}; create it, or name another one in CANDOR_GALLERY")
        case _ if isinstance(error, PASSING) and not isinstance(error, MISUSE):
            return GalleryUnavailable(f"PostgreSQL at {name} cannot be used now: {error or type(error).__name__}")
        case _:
            return GalleryError(f"PostgreSQL at {name} failed: {error}")
