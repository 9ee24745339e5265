"""An object store on this machine that speaks S3: moto's, in a process of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

PATIENCE_S = 60.0
ANYBODY = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=x"
FULL_ACCESS = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}


class ObjectStore:
    """A server with one bucket, `bucket`, and one user whose signature it checks."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait()
        self._call("PUT", "/bucket")
        self.key, self.secret = self._make_user()
        self._call("POST", "/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})

    @property
    def storage(self) -> Mapping[str, str]:
        """What LanceDB needs to know of it."""
        return {
            "aws_endpoint": f"http://127.0.0.1:{self.port}",
            "allow_http": "true",
            "aws_region": "us-east-1",
            "aws_access_key_id": self.key,
            "aws_secret_access_key": self.secret,
        }

    def pause(self) -> None:
        """Let it answer nothing, though it accepts connections."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it; what it held is lost."""
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._call("GET", "/moto-api/")
                return
            except URLError:
                assert self._process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.05)

    def _make_user(self) -> tuple[str, str]:
        self._iam("CreateUser")
        self._iam("PutUserPolicy", PolicyName="all", PolicyDocument=json.dumps(FULL_ACCESS))
        answer = self._iam("CreateAccessKey")
        found = [re.search(f"<{name}>(.*?)</{name}>", answer) for name in ("AccessKeyId", "SecretAccessKey")]
        key, secret = (match[1] for match in found if match)
        return key, secret

    def _iam(self, action: str, **fields: str) -> str:
        form = urlencode({"Action": action, "Version": "2010-05-08", "UserName": "tester", **fields}).encode()
        return self._call("POST", "/", form, {"Authorization": ANYBODY.format(service="iam")})

    def _call(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> str:
        request = Request(f"http://127.0.0.1:{self.port}{path}", body, dict(headers or {}), method=method)
        with urlopen(request, timeout=PATIENCE_S) as answer:
            text: str = answer.read().decode()
        return text


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store that ends with the block."""
    assert os.name == "posix"
    store = ObjectStore()
    try:
        yield store
    finally:
        store.kill()
