"""Adaptations: how pretrained weights are used. One file each, exporting `ADAPTATION`."""

import sys

from trainers import plugins
from trainers.adaptation import Adaptation


def names() -> list[str]:
    """Return the adaptations that exist."""
    return plugins.listed(sys.modules[__name__])


def load(adaptation: str) -> Adaptation:
    """Return an adaptation.

    Raises:
        UnknownNameError: lists the adaptations that exist.
    """
    found: Adaptation = plugins.load(sys.modules[__name__], adaptation, kind="adaptation").ADAPTATION
    return found
