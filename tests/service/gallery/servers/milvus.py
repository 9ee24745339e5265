"""A Milvus server of the tests' own: the one that `make engines` installs, on free ports of this machine."""

import itertools
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import grpc
import pytest
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from service.gallery.milvus.connection import quiet_logging
from tests.service.gallery.places import ServerPlace
from tests.service.process import PATIENCE_S, REPOSITORY

# Run by the interpreter that has the wheel: unpacks the server into a folder and writes its settings there.
UNPACK: Final = """
import sys
from milvus import MilvusServerConfig, _initialize_data_files
config = MilvusServerConfig(data_dir=sys.argv[1])
for setting in sys.argv[2:]:
    name, _, value = setting.partition("=")
    config.set(name, int(value) if value.isdigit() else value)
config.resolve()
_initialize_data_files(sys.argv[1])
"""
ROLES: Final = ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")
# A strong read waits for the next tick, a load and a new index for the next checks (ms), and a server started again for
# the sessions of the killed one to end (s).
HASTE: Final = (
    "common.session.ttl=3",
    "proxy.timeTickInterval=20",
    "queryCoord.checkInterval=50",
    "queryCoord.distPullInterval=50",
    "queryCoord.checkHandoffInterval=500",
)
PORTS: Final = (
    "proxy_port",
    "proxy_internal_port",
    "root_coord_port",
    "query_coord_port",
    "query_node_port",
    "index_coord_port",
    "index_node_port",
    "data_coord_port",
    "data_node_port",
)


class MilvusPlace(ServerPlace):
    """Collections of one server."""

    name = "milvus"

    def __init__(self, folder: Path, python: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        names = (*PORTS, "metrics", "etcd", "etcd_peer")
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        self._process: subprocess.Popen[bytes] | None = None
        self._unpack(python)
        quiet_logging()

    def fresh(self) -> str:
        """A collection that is not there yet."""
        return f"{self.url}/test_{next(self._numbers)}"

    @property
    def url(self) -> str:
        """Of the server."""
        return f"milvus://127.0.0.1:{self._ports['proxy_port']}"

    @property
    def settings(self) -> dict[str, str]:
        """Variables that make several candor servers see each other's writes at once."""
        return super().settings | {"CANDOR_GALLERY_CONSISTENCY": "strong"}

    def kill(self) -> None:
        """End the server, which is one process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    def drop(self, location: str) -> None:
        """Drop the collection, which the server would keep in memory."""
        with self._client() as client:
            client.drop_collection(location.rpartition("/")[2])

    def start(self) -> None:
        """Start it at the same port; return once it answers for every collection it has."""
        with (self._folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                [self._folder / "bin" / "milvus", "run", "standalone"],
                cwd=self._folder,
                env=self._environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        _wait_until(self._healthy, "the Milvus server does not become healthy")
        with self._client() as client:
            for name in client.list_collections():
                _wait_until(partial(_answers, client, name), f"{name} does not come back")

    def _unpack(self, python: Path) -> None:
        settings = [f"{name}={self._ports[name]}" for name in PORTS]
        settings += [f"{role}.ip=127.0.0.1" for role in ROLES]
        settings += [*HASTE, "log.level=warn", "etcd_log_level=error"]
        subprocess.run([python, "-c", UNPACK, self._folder, *settings], check=True, timeout=PATIENCE_S)
        client, peer = (f"http://127.0.0.1:{self._ports[name]}" for name in ("etcd", "etcd_peer"))
        (self._folder / "configs" / "etcd.yaml").write_text(
            f"listen-client-urls: {client}\nadvertise-client-urls: {client}\nlisten-peer-urls: {peer}\n"
            f"initial-advertise-peer-urls: {peer}\ninitial-cluster: default={peer}\n"
        )

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "ETCD_CONFIG_PATH": str(self._folder / "configs" / "etcd.yaml"),
            "METRICS_PORT": str(self._ports["metrics"]),
            "LD_LIBRARY_PATH": str(self._folder / "bin"),
        }

    def _healthy(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the Milvus server ended: see {self._folder / 'output.log'}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._ports['metrics']}/healthz", timeout=5) as answer:
                return b"OK" in answer.read()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    @contextmanager
    def _client(self) -> Iterator[MilvusClient]:
        client = MilvusClient(uri=self.url.replace("milvus://", "http://"), timeout=PATIENCE_S, dedicated=True)
        yield client
        client.close()


@contextmanager
def milvus(folder: Path) -> Iterator[ServerPlace]:
    """A Milvus server in a folder, or a reason why there is none."""
    binary = Path(os.environ.get("CANDOR_TEST_MILVUS", REPOSITORY / ".venv" / "milvus" / "bin" / "milvus-server"))
    if not binary.exists():
        pytest.skip(f"no Milvus server at {binary}: make engines installs it")
    place = MilvusPlace(folder, binary.parent / "python")
    try:
        place.start()
        yield place
    finally:
        place.kill()


def _answers(client: MilvusClient, name: str) -> bool:
    try:
        client.query(name, output_fields=["count(*)"], timeout=5)
    except (MilvusException, grpc.RpcError):
        return False
    return True


def _wait_until(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(complaint)
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
