r"""Check that a bundle is whole and does what its manifest says, as a server would before it serves it.

    candor bundle verify bundles/vit
    candor bundle verify org/name@revision

The manifest keeps to the schema, the graph is the one it describes and has its input and outputs, and on images of
noise gives finite numbers and embeddings of unit length, the same alone as in a batch. Where the manifest records how
close the graph was to the model it was exported from, that is within bounds. The first finding is the last line, and
the exit code is 1 then.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from models.bundle import Bundle, BundleError, load_bundle
from models.errors import UserError
from models.hub import locate
from service.session import OnnxSession, SessionError, noise, open_session
from service.settings import Device, SettingsError, read_settings

BATCH: Final = 8
MAX_DIFFERENCE: Final = 1e-4  # of an embedding's numbers: alone or in a batch, and from the model it was exported from


def main(argv: Sequence[str]) -> None:
    """Tell what holds, up to the first thing that does not."""
    arguments = argparse.ArgumentParser(
        prog="candor bundle verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("where", metavar="WHERE", help="bundle folder, or org/name[@revision] of the hub")
    for holds in verify(locate(arguments.parse_args(argv).where, progress=True).folder):
        print(f"ok  {holds}", flush=True)


def verify(folder: Path) -> Iterator[str]:
    """Each thing that holds of a bundle, as soon as it has been checked.

    Raises:
        UserError: for the first that does not.
    """
    bundle = load_bundle(folder)
    yield f"the manifest of {bundle.manifest.name!r} keeps to the schema, and describes this graph: {bundle.hash}"
    session = _session(bundle)
    size, dimension = bundle.preprocessing.size, bundle.manifest.dimension
    yield f"the graph takes images of {size} x {size} pixels and gives {', '.join(bundle.manifest.outputs)}"
    yield f"on noise its numbers are finite, and its embeddings of {dimension} numbers have unit length"
    yield f"alone or in a batch, its embeddings differ by {_batch_difference(session, bundle):.1e} at most"
    if "parity" in bundle.manifest.metrics:
        made = "the float32 graph that it was made of" if "precision" in bundle.manifest.metrics else "the graph"
        yield f"{made} was within {_recorded_error(bundle):.1e} of the model that it was exported from"


def _session(bundle: Bundle) -> OnnxSession:
    """The graph on the CPU, run on noise already."""
    try:
        settings = read_settings({"device": Device.CPU, "autotune": False, "max_batch": BATCH, "lanes": 1})
        return open_session(bundle, settings)
    except (SessionError, SettingsError) as error:
        raise UserError(str(error)) from error


def _batch_difference(session: OnnxSession, bundle: Bundle) -> float:
    images = noise(bundle, BATCH)
    alone = np.concatenate([session.run([image]).embedding for image in images])  # (BATCH, D)
    difference = float(np.abs(session.run(images).embedding - alone).max())
    if difference > MAX_DIFFERENCE:
        raise BundleError(f"alone or in a batch, embeddings differ by {difference:.1e}: export the bundle again")
    return difference


def _recorded_error(bundle: Bundle) -> float:
    parity = bundle.manifest.metrics["parity"]
    error = parity.get("max_embedding_error") if isinstance(parity, dict) else None
    if not isinstance(error, float | int) or not error <= MAX_DIFFERENCE:
        raise BundleError(f"the manifest records a parity of {parity!r}: export the bundle again")
    return float(error)
