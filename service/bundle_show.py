r"""Tell what a bundle is: what it was made of, what it was measured to be worth, and on what terms it may be used.

    candor bundle show bundles/vit
    candor bundle show org/name@revision --json

A bundle of the hub is downloaded into the hub's cache, where a server finds it without a connection.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from models.bundle import Bundle, load_bundle
from models.hub import Located, locate

INDENT: Final = 2
SHARES: Final = {"least": 0.0, "median": 0.5, "90 %": 0.9, "most": 1.0}


def main(argv: Sequence[str]) -> None:
    """Print it, for people or as one JSON object."""
    arguments = argparse.ArgumentParser(
        prog="candor bundle show", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("where", metavar="WHERE", help="bundle folder, or org/name[@revision] of the hub")
    arguments.add_argument("--json", action="store_true", help="the whole manifest, the hash and the origin as JSON")
    options = arguments.parse_args(argv)
    located = locate(options.where, progress=True)
    bundle = load_bundle(located.folder)
    print(json.dumps(as_dict(bundle, located), indent=1) if options.json else as_text(bundle, located))


def as_dict(bundle: Bundle, located: Located) -> dict[str, Any]:
    """The manifest, with the bundle's hash and where it is from."""
    hub = asdict(located.hub) if located.hub else None
    return {"hash": bundle.hash, "folder": str(located.folder), "hub": hub, **bundle.manifest.model_dump(mode="json")}


def as_text(bundle: Bundle, located: Located) -> str:
    """What people want to know of it, less what is empty."""
    manifest, hub = bundle.manifest, located.hub
    about = {
        "name": manifest.name,
        "hash": bundle.hash,
        "hub": f"{hub.repository}@{hub.revision}, commit {hub.commit}" if hub else "",
        "folder": str(located.folder),
        "backbone": {"name": manifest.backbone.name, **manifest.backbone.args},
        "dimension": manifest.dimension,
        "preprocessing": manifest.preprocessing.model_dump(),
        "outputs": ", ".join(manifest.outputs),
        "reference": {
            "data set": f"{manifest.reference.dataset}, {manifest.reference.count:,} images",
            "uncertainty": quantiles(manifest.reference.uncertainty),
            "novelty": quantiles(manifest.reference.novelty),
        },
        "training": manifest.training.model_dump(),
        "calibration": manifest.calibration,
        "metrics": manifest.metrics,
        "made": {"created": manifest.created, "commit": manifest.commit, "command": manifest.command},
        "versions": manifest.versions,
    }
    return "\n".join(lines(about))


def quantiles(values: Sequence[float]) -> str:
    """Some of evenly spaced quantiles, in words."""
    return ", ".join(f"{name} {values[round(share * (len(values) - 1))]:.4g}" for name, share in SHARES.items())


def lines(about: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """A mapping's entries below each other, what is within them further in; empty ones are left out."""
    for name, value in about.items():
        if value in ("", {}, [], None):
            continue
        if isinstance(value, Mapping):
            yield f"{' ' * INDENT * depth}{name}"
            yield from lines(value, depth + 1)
        else:
            yield f"{' ' * INDENT * depth}{name}: {value_text(value)}"


def value_text(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    return str(value)
