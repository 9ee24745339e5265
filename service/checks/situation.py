"""What is examined: the settings, and each bundle with its gallery."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.settings import Settings


@dataclass(frozen=True)
class Served:
    """A bundle, and the gallery of its items."""

    bundle: Path
    gallery: str


@dataclass(frozen=True)
class Situation:
    """Settings as `candor serve` would have them, and the environment."""

    settings: Settings
    environment: Mapping[str, str]

    @property
    def served(self) -> tuple[Served, ...]:
        """Every bundle that a server would load."""
        return (Served(self.settings.bundle, self.settings.gallery),)
