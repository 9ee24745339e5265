"""Where policies, the answers given under them, and the evidence for and against them are kept: one SQLite file.

Several processes share it. What `put` and `judge_answer` return from is on disk.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from service.policies.policy import POLICY, Policy
from service.policies.promise import K, Target
from uncertainty.drift import LEVEL, Audit, Drift, drift

WINDOW: Final = 500  # queries after which a window is compared with the reference
KEEP_ANSWERS_S: Final = 30 * 24 * 3600.0  # for feedback
BUSY_S: Final = 10.0
FORMAT: Final = 2  # of the file
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS policies (name TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    request_id TEXT PRIMARY KEY, policy TEXT NOT NULL, created TEXT NOT NULL, alpha REAL NOT NULL, delta REAL NOT NULL,
    k TEXT NOT NULL, accepted INTEGER NOT NULL, at REAL NOT NULL, loss REAL
);
CREATE INDEX IF NOT EXISTS answers_by_time ON answers (at);
CREATE TABLE IF NOT EXISTS audits (
    policy TEXT NOT NULL, alpha REAL NOT NULL, delta REAL NOT NULL, k TEXT NOT NULL, state TEXT NOT NULL,
    alarmed_at REAL, PRIMARY KEY (policy, alpha, delta, k)
);
CREATE TABLE IF NOT EXISTS windows (
    policy TEXT NOT NULL, input TEXT NOT NULL, counts TEXT NOT NULL, look INTEGER NOT NULL, psi REAL, limit_ REAL,
    alarmed_at REAL, PRIMARY KEY (policy, input)
);
"""


@dataclass(frozen=True)
class Answer:
    """An answer given under a policy; `created` is the policy's, so that another of the same name is told apart."""

    request_id: str
    policy: str
    created: str
    target: Target
    accepted: bool
    at: float


@dataclass(frozen=True)
class Audited:
    """Audits of one target so far, and when they first raised the alarm, in seconds of the epoch."""

    audit: Audit
    alarmed_at: float | None


@dataclass(frozen=True)
class Watched:
    """The last comparison of one input with its reference, and when one first raised the alarm."""

    last: Drift | None
    looks: int
    alarmed_at: float | None


class PolicyStoreError(Exception):
    """A file that cannot be used; the message says why and what to do."""


class UnknownAnswer(LookupError):
    """No answer under a policy has this request id, or it is too long ago."""


class OtherVerdict(ValueError):
    """This answer has been judged before, and otherwise."""


class PolicyStore:
    """Policies and what is learnt of them; every method blocks, and may be called from any thread.

    The file is made with the first policy.

    Raises:
        PolicyStoreError: by every method, where the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
            self._database = None

    def policies(self) -> dict[str, Policy]:
        """Every policy, by name."""
        if not self._path.exists():
            return {}
        with self._reading() as database:
            rows = database.execute("SELECT name, document FROM policies ORDER BY name").fetchall()
        return {name: POLICY.validate_json(document) for name, document in rows}

    def version(self) -> int | None:
        """A number that changes when another process has written; None where there is no file yet."""
        if not self._path.exists():
            return None
        with self._reading() as database:
            number: int = database.execute("PRAGMA data_version").fetchone()[0]
        return number

    def put(self, policy: Policy) -> None:
        """Keep a policy, in place of the one of that name, whose audits and windows go with it."""
        with self._writing() as database:
            self._forget(database, policy.name)
            document = POLICY.dump_json(policy).decode()
            database.execute("INSERT INTO policies VALUES (?, ?)", (policy.name, document))

    def delete(self, name: str) -> bool:
        """Delete a policy; whether it was there."""
        with self._writing() as database:
            return self._forget(database, name)

    def record(
        self, answers: Sequence[Answer], values: Mapping[str, Sequence[Mapping[str, float]]], now: float
    ) -> None:
        """Remember answers for feedback, and take the watched values of each policy's queries into its windows."""
        with self._writing() as database:
            database.execute("DELETE FROM answers WHERE at < ?", (now - KEEP_ANSWERS_S,))
            database.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                [
                    (
                        each.request_id,
                        each.policy,
                        each.created,
                        each.target.alpha,
                        each.target.delta,
                        str(each.target.k),
                        each.accepted,
                        each.at,
                    )
                    for each in answers
                ],
            )
            for name, queries in values.items():
                row = database.execute("SELECT document FROM policies WHERE name = ?", (name,)).fetchone()
                if row is not None:
                    self._watch(database, POLICY.validate_json(row[0]), queries, now)

    def answer(self, request_id: str) -> Answer:
        """An answer that was given.

        Raises:
            UnknownAnswer: for a request id that is not known.
        """
        if not self._path.exists():
            raise UnknownAnswer(request_id)
        with self._reading() as database:
            return self._answer(database, request_id)[0]

    def judge_answer(self, request_id: str, loss: float, now: float) -> tuple[Answer, Audited | None]:
        """Take in how wrong an answer was, from 0.0 to 1.0; the audits of its target, None where its policy is gone.

        Only accepted answers count. The same verdict again changes nothing.

        Raises:
            UnknownAnswer: for a request id that is not known.
            OtherVerdict: where the answer was judged otherwise before.
        """
        with self._writing() as database:
            answer, before_loss = self._answer(database, request_id)
            if before_loss is not None and before_loss != loss:
                raise OtherVerdict(request_id)
            database.execute("UPDATE answers SET loss = ? WHERE request_id = ?", (loss, request_id))
            document = database.execute("SELECT document FROM policies WHERE name = ?", (answer.policy,)).fetchone()
            if document is None or POLICY.validate_json(document[0]).created != answer.created:
                return answer, None
            before = self._audited(database, answer.policy, answer.target)
            if not answer.accepted or before_loss is not None:
                return answer, before
            audit = before.audit.seen(loss)
            after = Audited(audit, before.alarmed_at or (now if audit.alarm else None))
            state = json.dumps({"count": audit.count, "loss": audit.loss, "log_e": audit.log_e, "log_m": audit.log_m})
            database.execute(
                "INSERT OR REPLACE INTO audits VALUES (?, ?, ?, ?, ?, ?)",
                (answer.policy, *_as_key(answer.target), state, after.alarmed_at),
            )
            return answer, after

    def audited(self, name: str, target: Target) -> Audited:
        """The audits of one target so far."""
        with self._reading() as database:
            return self._audited(database, name, target)

    def watched(self, name: str) -> dict[str, Watched]:
        """What was found of each input's drift."""
        with self._reading() as database:
            rows = database.execute(
                "SELECT input, psi, limit_, look, alarmed_at FROM windows WHERE policy = ?", (name,)
            ).fetchall()
        return {
            row[0]: Watched(None if row[1] is None else Drift(row[1], row[2], WINDOW), row[3], row[4]) for row in rows
        }

    def _watch(
        self, database: sqlite3.Connection, policy: Policy, queries: Iterable[Mapping[str, float]], now: float
    ) -> None:
        for name, reference in policy.references.items():
            row = database.execute(
                "SELECT counts, look, psi, limit_, alarmed_at FROM windows WHERE policy = ? AND input = ?",
                (policy.name, name),
            ).fetchone()
            counts: list[int] = json.loads(row[0]) if row else [0] * len(reference.share)
            look, psi, limit, alarmed_at = row[1:] if row else (0, None, None, None)
            for query in queries:
                if name not in query:
                    continue
                counts[reference.bin_of(query[name])] += 1
                if sum(counts) == WINDOW:
                    look += 1
                    found = drift(reference, counts, look, level=LEVEL / len(policy.references))
                    psi, limit, counts = found.psi, found.limit, [0] * len(counts)
                    alarmed_at = alarmed_at or (now if found.drifted else None)
            database.execute(
                "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, ?, ?, ?)",
                (policy.name, name, json.dumps(counts), look, psi, limit, alarmed_at),
            )

    def _answer(self, database: sqlite3.Connection, request_id: str) -> tuple[Answer, float | None]:
        """An answer, and the loss that it was judged to have."""
        row = database.execute(
            "SELECT policy, created, alpha, delta, k, accepted, at, loss FROM answers WHERE request_id = ?",
            (request_id,),
        ).fetchone()
        if row is None:
            raise UnknownAnswer(request_id)
        name, created, alpha, delta, k, accepted, at, loss = row
        return Answer(request_id, name, created, Target(alpha, delta, _read_k(k)), bool(accepted), at), loss

    def _audited(self, database: sqlite3.Connection, name: str, target: Target) -> Audited:
        fresh = Audit(target.alpha, target.delta)
        row = database.execute(
            "SELECT state, alarmed_at FROM audits WHERE policy = ? AND alpha = ? AND delta = ? AND k = ?",
            (name, *_as_key(target)),
        ).fetchone()
        if row is None:
            return Audited(fresh, None)
        state = json.loads(row[0])
        log_e, log_m = tuple(state["log_e"]), tuple(state["log_m"])
        return Audited(replace(fresh, count=state["count"], loss=state["loss"], log_e=log_e, log_m=log_m), row[1])

    def _forget(self, database: sqlite3.Connection, name: str) -> bool:
        for table in ("audits", "windows"):
            database.execute(f"DELETE FROM {table} WHERE policy = ?", (name,))
        return database.execute("DELETE FROM policies WHERE name = ?", (name,)).rowcount > 0

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connected()
            except (sqlite3.Error, OSError) as error:
                raise PolicyStoreError(f"cannot keep policies in {self._path}: {error}; see CANDOR_POLICIES") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that no other process writes beside: all of the block, or nothing."""
        with self._reading() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        if self._database is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            require_format(database, self._path)
            database.executescript(SCHEMA)
            database.execute(f"PRAGMA user_version = {FORMAT}")
            self._database = database
        return self._database


def require_format(database: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that another version of candor wrote, and close it; one without tables is of every format.

    Raises:
        PolicyStoreError: saying what to do.
    """
    (found,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and found != FORMAT:
        database.close()
        raise PolicyStoreError(
            f"{path} is of format {found}, and this version keeps policies in format {FORMAT}: move it away "
            "or set CANDOR_POLICIES, and make the policies anew"
        )


def _as_key(target: Target) -> tuple[float, float, str]:
    return target.alpha, target.delta, str(target.k)


def _read_k(text: str) -> K:
    return "adaptive" if text == "adaptive" else int(text)
