"""A candor server from Python: `candor.Client` and `candor.AsyncClient`, what they return, and what they raise."""

from scripts.client.asynchronous import AsyncClient
from scripts.client.calls import NewItem
from scripts.client.errors import ApiError, ServerError, Unintelligible, Unreachable, Unreadable, Untrusted
from scripts.client.options import Labelled, Target
from scripts.client.results import (
    Embedded,
    Feedback,
    GalleryInfo,
    Item,
    Match,
    Model,
    Models,
    Policy,
    Retrieval,
    Stored,
)
from scripts.client.sync import Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "Embedded",
    "Feedback",
    "GalleryInfo",
    "Item",
    "Labelled",
    "Match",
    "Model",
    "Models",
    "NewItem",
    "Policy",
    "Retrieval",
    "ServerError",
    "Stored",
    "Target",
    "Unintelligible",
    "Unreachable",
    "Unreadable",
    "Untrusted",
]
