"""The gallery in Milvus: one collection of a server or cluster."""

from service.gallery.milvus.engine import MilvusEngine
from service.gallery.milvus.opening import open_engine
from service.gallery.milvus.surveying import survey

__all__ = ["MilvusEngine", "open_engine", "survey"]
