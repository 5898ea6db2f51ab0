"""Benchmarks, one file each: every file exports `run(*, quick) -> list[Row]`, ours and the peer side by side."""

import pkgutil

NOT_BENCHMARKS = frozenset({"row"})


def names() -> list[str]:
    """List the benchmarks of this folder."""
    found = [module.name for module in pkgutil.iter_modules(__path__)]
    return sorted(name for name in found if name not in NOT_BENCHMARKS and not name.startswith("_"))
