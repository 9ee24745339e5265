"""Ask a server everything that its description allows and forbids: schemathesis, in a process of its own.

`python -m tests.service.protocols.fuzz --examples 500 --seed 1` starts a server of the shipped bundle and asks that.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from httpx2 import Client

from models.bundle import DEFAULT_BUNDLE
from tests.service.images import png
from tests.service.policies.factory import labelled
from tests.service.process import PATIENCE_S, serving

RULES = Path(__file__).with_name("schemathesis.toml")
PHASES = "examples,coverage,fuzzing,stateful"
SETTINGS = {"CANDOR_AUTOTUNE": "false"}


def prepare(url: str, key: str = "none") -> None:
    """Make an item and a policy, whose names schemathesis takes from answers: or most paths would lead nowhere."""
    queries = [[asdict(query) for query in labelled(count, seed)] for seed, count in enumerate((400, 1500))]
    policy = {
        "name": "shop",
        "targets": [{"alpha": 0.1, "delta": 0.1}],
        "development": queries[0],
        "certification": queries[1],
    }
    with Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=PATIENCE_S) as client:
        client.put("/gallery/zebra", content=png(), params={"payload": '{"camera": "north"}'}).raise_for_status()
        client.post("/policies", json=policy).raise_for_status()


def fuzz(
    url: str, folder: Path, *, examples: int, seed: int, phases: str = PHASES, key: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it against a server, with at most so many examples of an endpoint in a phase; it writes into `folder`."""
    arguments = ["--max-examples", str(examples), "--seed", str(seed), "--phases", phases, "--no-color"]
    if key is not None:
        arguments += ["--header", f"Authorization: Bearer {key}"]
    return subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "--config-file",
            RULES,
            "run",
            f"{url}/openapi.json",
            *arguments,
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def main(argv: Sequence[str]) -> None:
    """Exit with what schemathesis exits with: 1 where it found anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.service.protocols.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=500, help="most examples of an endpoint in a phase")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(DEFAULT_BUNDLE, f"{folder}/gallery", **SETTINGS) as server:
        server.event("ready")
        prepare(server.url)
        run = fuzz(server.url, Path(folder), examples=options.examples, seed=options.seed)
    print(run.stdout)
    sys.exit(run.returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
