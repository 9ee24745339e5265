"""Use everything that a server of an image does, with no other package than it has: `python smoke.py`.

    podman run --rm --entrypoint python -v ./deploy/image:/smoke:ro candor:cpu /smoke/smoke.py

What `prune.py` takes out is unused as long as this passes: every format is decoded, images are embedded, a gallery is
filled, indexed, searched with filters, listed, exported and imported, and the clients of other engines are loaded.
"""

import asyncio
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import HnswSq
from PIL import Image

CANDOR = (sys.executable, "-c", "import candor; candor.main()")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
INDEXED = 300
DIMENSION = 16
ENGINES = {"asyncpg": "service.gallery.postgresql.opening", "pymilvus": "service.gallery.milvus.opening"}


def main() -> None:
    """Run every part; the first that fails ends it."""
    with tempfile.TemporaryDirectory() as folder:
        gallery = Path(folder) / "gallery"
        server, url = start(gallery)
        try:
            embed(url)
            retrieve(url)
        finally:
            server.send_signal(signal.SIGTERM)
        if server.wait(60) != 0:
            raise SystemExit("the server did not drain")
        move(gallery, Path(folder))
        asyncio.run(index(Path(folder) / "indexed"))
    engines = [name for name in ENGINES if importlib.util.find_spec(name)]
    for name in engines:
        importlib.import_module(ENGINES[name])
    print(f"ok: decode, embed, gallery, filters, export, import, index, and the clients {engines}")


def start(gallery: Path) -> tuple[subprocess.Popen[str], str]:
    """A server on a free port, and its address once it is ready."""
    environment = {**os.environ, "CANDOR_HOST": "127.0.0.1", "CANDOR_PORT": "0", "CANDOR_DEVICE": "cpu"}
    environment |= {"CANDOR_GALLERY": str(gallery), "CANDOR_LOG_FORMAT": "json", "CANDOR_AUTOTUNE": "false"}
    server = subprocess.Popen([*CANDOR, "serve"], env=environment, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    url = ""
    for line in server.stderr:
        event = json.loads(line) if line.startswith("{") else {"event": line}
        url = event.get("url", url)
        if event["event"] == "ready":
            return server, url
    raise SystemExit("the server did not start")


def embed(url: str) -> None:
    """Every format, as JSON and as an array; and a damaged image, which is refused."""
    for name in FORMATS:
        result = ask("POST", f"{url}/embed", picture(1, name))["results"][0]
        assert result["status"] == "ok", (name, result)
    request = urllib.request.Request(
        f"{url}/embed", picture(1), {"Content-Type": "image/png", "Accept": "application/x-npy"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        array = np.load(io.BytesIO(answer.read()))
    assert abs(float(np.linalg.norm(array)) - 1) < 1e-3


def retrieve(url: str) -> None:
    """Items with payloads; found by image, by filter, in order of uncertainty; deleted by filter."""
    for number in range(8):
        ask("PUT", f"{url}/gallery/item-{number}?payload=%7B%22even%22%3A{number % 2}%7D", picture(number))
    found = ask("POST", f"{url}/retrieve?filter=%7B%22even%22%3A1%7D&limit=3", picture(3))
    assert found["matches"][0]["id"] == "item-3", found
    assert all(match["payload"]["even"] == 1 for match in found["matches"])
    assert len(ask("GET", f"{url}/gallery?limit=5")["items"]) == 5
    body = json.dumps({"filter": {"even": 0}}).encode()
    assert ask("POST", f"{url}/gallery/delete", body, "application/json")["deleted"] == 4
    assert "candor_gallery_items" in text(f"{url}/metrics")


def move(gallery: Path, folder: Path) -> None:
    """The gallery is exported, and imported into another."""
    run = [*CANDOR, "gallery"]
    subprocess.run([*run, "export", "--gallery", str(gallery), "--out", str(folder / "export")], check=True)
    subprocess.run([*run, "import", str(folder / "export"), "--gallery", str(folder / "copy")], check=True)


async def index(folder: Path) -> None:
    """LanceDB builds the vector index of a large gallery, and searches it under a filter."""
    vectors = np.random.default_rng(0).normal(size=(INDEXED, DIMENSION)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION)
    rows = pa.table({"id": pa.array(range(INDEXED)), "embedding": column})
    table = await (await lancedb.connect_async(folder)).create_table("items", rows)
    await table.create_index("embedding", config=HnswSq(distance_type="cosine"))
    found = await table.query().nearest_to(vectors[7]).distance_type("cosine").where("id >= 5").limit(3).to_arrow()
    assert found["id"].to_pylist()[0] == 7, found


def ask(method: str, url: str, body: bytes | None = None, kind: str = "image/png") -> Any:
    """The JSON that a request is answered with."""
    request = urllib.request.Request(url, body, {"Content-Type": kind}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def text(url: str) -> str:
    """What a URL answers."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def picture(seed: int, file_format: str = "PNG") -> bytes:
    """A blocky picture; another seed, another picture."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((96, 72), Image.Resampling.NEAREST).save(buffer, file_format)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
