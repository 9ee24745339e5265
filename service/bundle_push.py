r"""Verify a bundle, and upload it to the Hugging Face hub with a model card made of its manifest.

    candor bundle push bundles/vit org/name
    candor bundle push bundles/vit org/name --revision v2 --private

Graph, manifest and card are one commit. A README.md in the bundle's folder is taken as the card in place of one made
here. HF_TOKEN says who uploads.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from models.bundle import GRAPH_FILE, MANIFEST_FILE, Bundle, load_bundle
from models.errors import UserError
from models.hub import HUB_ID, MAIN, Located
from service.bundle_show import as_text
from service.bundle_verify import verify

CARD_FILE: Final = "README.md"
CARD: Final = """\
---
library_name: candor
pipeline_tag: image-feature-extraction
license: other
tags:
- image-embeddings
- uncertainty
- onnx
---

# {name}

Image embeddings of {dimension} dimensions that say when they are unsure: a bundle for
candor, as ONNX with the uncertainty of each image beside its embedding.

Licence and training data: {licence}. Trained on {data}.

    candor serve --bundle {repository}

```
{about}
```
"""


def main(argv: Sequence[str]) -> None:
    """Verify, then upload; tells the commit's URL."""
    options = _arguments().parse_args(argv)
    named = HUB_ID.fullmatch(options.repository)
    if named is None or named[2]:
        raise UserError(f"{options.repository!r} is no repository of the hub: give org/name, and --revision")
    for holds in verify(options.folder):
        print(f"ok  {holds}", flush=True)
    url = push(load_bundle(options.folder), options.repository, options.revision, options.message, options.private)
    print(f"pushed to {url}")


def card(bundle: Bundle, repository: str) -> str:
    """The model card."""
    about = re.sub(r"^folder: .*\n", "", as_text(bundle, Located(bundle.path)), flags=re.MULTILINE)
    manifest = bundle.manifest
    return CARD.format(
        name=manifest.name,
        dimension=manifest.dimension,
        licence=manifest.training.licence,
        data=manifest.training.data,
        repository=repository,
        about=about,
    )


def push(bundle: Bundle, repository: str, revision: str, message: str, private: bool) -> str:
    """Upload a bundle as one commit, its repository and branch made where they are not there; the commit's URL.

    Raises:
        UserError: where the hub refuses it or cannot be reached.
    """
    from httpx2 import HTTPError  # these take a while to import
    from huggingface_hub import CommitOperationAdd, HfApi

    own = bundle.path / CARD_FILE
    files: dict[str, Path | bytes] = {
        MANIFEST_FILE: bundle.path / MANIFEST_FILE,
        GRAPH_FILE: bundle.path / GRAPH_FILE,
        CARD_FILE: own if own.is_file() else card(bundle, repository).encode(),
    }
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    api = HfApi(library_name="candor")
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision != MAIN:
            api.create_branch(repository, branch=revision, exist_ok=True)
        return api.create_commit(repository, operations, commit_message=message, revision=revision).commit_url
    except (HTTPError, OSError) as error:
        raise UserError(f"{repository} cannot be pushed: {error}; HF_TOKEN needs the right to write there") from error


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor bundle push", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path, metavar="FOLDER", help="the bundle")
    arguments.add_argument("repository", metavar="ORG/NAME", help="repository of the hub; made if it is not there")
    arguments.add_argument("--revision", default=MAIN, help="branch; made if it is not there")
    arguments.add_argument("--private", action="store_true", help="keep a new repository private")
    arguments.add_argument("--message", default="Upload a bundle", help="of the commit")
    return arguments
