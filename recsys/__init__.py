"""A recommendation engine that knows what the visitor is doing right now."""

from recsys.bundle import Bundle
from recsys.config import Config, load_config
from recsys.events import Event, InputError
from recsys.logs import Log, load_log
from recsys.recommend import Recommendation, Request, recommend, similar
from recsys.registry import Registry
from recsys.session import Session
from recsys.training import train

__all__ = [
    "Bundle",
    "Config",
    "Event",
    "InputError",
    "Log",
    "Recommendation",
    "Registry",
    "Request",
    "Session",
    "load_config",
    "load_log",
    "recommend",
    "similar",
    "train",
]
