"""What is examined: settings as `candor serve` would have them, and the environment."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.settings import Settings


@dataclass(frozen=True)
class Situation:
    """Settings as `candor serve` would have them, and the environment."""

    settings: Settings
    environment: Mapping[str, str]
