"""What an operator does to a running server."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from service.lifecycle import generation_of
from service.openapi import errors
from service.reload import Reloaded, Reloader
from service.schemas import ReloadAnswer

router = APIRouter(tags=["operations"])


@router.post(
    "/admin/reload",
    responses={
        200: {"model": ReloadAnswer, "description": "Reloaded; `changed` may be empty."},
        202: {"model": ReloadAnswer, "description": "Every worker has been asked to reload, each by itself."},
        **errors(401, 409, 503),
    },
)
async def reload(request: Request, response: Response) -> dict[str, Any]:
    """Serve the bundles as they are now, on disk and on the hub; as SIGHUP does.

    Requests are answered meanwhile, each with what was served when it came. What is the same is not touched. Where
    anything cannot be served, nothing changes, and the answer says why (409 `reload_failed`). With several workers each
    reloads by itself, and how that went is told by their logs and by `candor_reloads_total`.
    """
    generation_of(request)
    reloader: Reloader = request.app.state.reloader
    if reloader.ask_all is not None:
        reloader.ask_all()
        response.status_code = 202
        return {"status": "asked", "changed": None}
    return _described(await asyncio.shield(reloader.start()))


def _described(reloaded: Reloaded) -> dict[str, Any]:
    before, after = reloaded.before.by_name, reloaded.after.by_name
    return {
        "status": "reloaded",
        "changed": [
            {
                "bundle": name,
                "before": before[name].bundle.hash if name in before else None,
                "after": after[name].bundle.hash if name in after else None,
            }
            for name in reloaded.changed
        ],
    }
