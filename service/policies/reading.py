"""What a file of policies holds, read without changing it, also while servers use it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from service.policies.policy import POLICY, Policy
from service.policies.store import PolicyStoreError, require_format

ALARMED: Final = (
    "SELECT policy FROM audits WHERE alarmed_at IS NOT NULL "
    "UNION SELECT policy FROM windows WHERE alarmed_at IS NOT NULL"
)


@dataclass(frozen=True)
class Kept:
    """Policies by name, and the names of those that feedback or drift speaks against."""

    policies: dict[str, Policy]
    alarmed: frozenset[str]


def read_policies(path: Path) -> Kept:
    """What is kept in a file; nothing, where it is not there.

    Raises:
        PolicyStoreError: where it cannot be read.
    """
    if not path.exists():
        return Kept({}, frozenset())
    with _reading(path) as database:
        require_format(database, path)
        if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return Kept({}, frozenset())
        rows = database.execute("SELECT name, document FROM policies ORDER BY name").fetchall()
        policies = {name: POLICY.validate_json(document) for name, document in rows}
        return Kept(policies, frozenset(name for (name,) in database.execute(ALARMED)))


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing: beside a log of changes it reads both, else the file as it lies."""
    how = "mode=ro" if Path(f"{path}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)) as database:
            yield database
    except (sqlite3.Error, OSError, ValidationError) as error:
        raise PolicyStoreError(f"cannot read policies in {path}: {error}; see CANDOR_POLICIES") from error
