"""Plugins are files: the YAML name is the module name, and listing the folder is the registry."""

import difflib
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType


class UnknownNameError(ValueError):
    """A name that no file bears; the message lists those that exist."""


def listed(package: ModuleType) -> list[str]:
    """Return the names of the modules in a plugin folder, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)


def load(package: ModuleType, name: str, *, kind: str) -> ModuleType:
    """Import the plugin of that name.

    Args:
        package: the plugin folder, imported.
        name: as written in the study file.
        kind: what the plugin is, for the message, e.g. "initialization".

    Raises:
        UnknownNameError: no such file; names the closest and all that exist.
    """
    known = listed(package)
    if name not in known:
        raise unknown(kind, name, known)
    return import_module(f"{package.__name__}.{name}")


def unknown(kind: str, name: str, known: Iterable[str], *, also: str = "") -> UnknownNameError:
    """Return the error for a name that does not exist, with close matches first.

    Args:
        kind: what was looked for.
        name: what was written.
        known: what exists under a file of its own.
        also: a sentence on what else is accepted.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    tail = f"; {also}" if also else ""
    return UnknownNameError(f"unknown {kind} {name!r}{hint} (existing: {', '.join(names)}{tail})")
