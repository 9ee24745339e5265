"""How an engine is reached and kept; each engine uses those that concern it, and refuses none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Consistency(StrEnum):
    """How much of what others wrote a read of Milvus sees: everything, one's own writes, or what it has by then."""

    STRONG = "strong"
    SESSION = "session"
    BOUNDED = "bounded"


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is reached and kept.

    Args:
        user: name to log in with, in place of the URL's.
        password: to log in with, in place of the URL's.
        tls: True: encrypted and the server's certificate verified; False: plain; None: as the URL says.
        ca: PEM file of the authorities that the server's certificate may be of, in place of the system's.
        certificate: PEM file of this client's certificate, where the server asks for one.
        key: PEM file of its private key.
        pool: most connections of one process.
        timeout_s: longest that one call of the engine's may take.
        table: PostgreSQL's table.
        replicas: Milvus's copies of the collection in memory.
        consistency: Milvus's, of reads.
        storage: what an object store needs, as LanceDB takes it (keys, region, endpoint).
    """

    user: str | None = None
    password: str | None = None
    tls: bool | None = None
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    pool: int = 8
    timeout_s: float = 10.0
    table: str = "candor_items"
    replicas: int = 1
    consistency: Consistency = Consistency.STRONG
    storage: Mapping[str, str] = field(default_factory=dict)
