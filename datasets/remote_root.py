"""A data root that is an address: what the manifest names is brought to a local mirror and read from there.

Only the manifest knows which images a configuration reads, and only a folder can be read into a manifest. So the label
files are brought first, anew every time; a skeleton of the data set, in which all else are empty files, gives the
manifest; then the images it names are brought, and no archives beside them. The mirror's fingerprint is that of the
original.
"""

import hashlib
import re
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath

from filelock import FileLock

from datasets.dataset_config import DatasetConfig
from datasets.errors import DatasetError
from datasets.remote import TABLES, Mirrored, RemoteFolder, copy, listing, public
from datasets.sources import load


def is_address(root: str) -> bool:
    """Say whether a root is an address that fsspec understands, e.g. s3://bucket/nih, and not a local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*(::[^/]+)?://", root) is not None


def mirror_of(address: str, mirrors: Path) -> Path:
    """Return the folder in `mirrors` that an address is mirrored to; the same for any credentials in it."""
    shown = public(address).rstrip("/")
    name = re.sub(r"[^\w.-]", "_", shown.rsplit("/", 1)[-1]) or "root"
    return mirrors / f"{name}-{hashlib.sha256(shown.encode()).hexdigest()[:12]}"


def bring(
    config: DatasetConfig,
    address: str,
    folder: Path,
    *,
    workers: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Mirrored:
    """Bring what a data set's configuration reads from an address to a local folder.

    Interrupted and called again it goes on; of several callers one copies and the others wait. Label files are copied
    anew by every call, see `datasets.remote.mirror`; what is not at the address any more is removed here, too.

    Args:
        config: which label files and images.
        address: of the data set in its official layout.
        folder: local, see `mirror_of`.
        workers: files at once.
        progress: told (images copied, images to copy).

    Raises:
        DatasetError: the address cannot be read, or what lies there is no such data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        remote = listing(address)
        _remove_gone(remote, folder)
        tables = {path for path in remote.files if _is_table(path, config)}
        brought = copy(remote, folder, only=tables, workers=workers)
        named = _named_images(config, remote, folder, tables)
        images = copy(remote, folder, only=named, workers=workers, progress=progress)
    return Mirrored(brought.files + images.files, brought.bytes + images.bytes, brought.copied + images.copied)


def _remove_gone(remote: RemoteFolder, folder: Path) -> None:
    """Remove what its owner removed: a label file under its earlier name would be read in place of the new one."""
    for path in folder.rglob("*"):
        if path.is_file() and PurePosixPath(path.relative_to(folder)) not in remote.files:
            path.unlink()


def _is_table(path: PurePosixPath, config: DatasetConfig) -> bool:
    """Say whether a source may read a file for labels: by its ending, or since the configuration names it."""
    return path.name.lower().endswith(TABLES) or str(path) == config.options.get("table")


def _named_images(
    config: DatasetConfig, remote: RemoteFolder, folder: Path, tables: Collection[PurePosixPath]
) -> list[PurePosixPath]:
    """Return the paths that the manifest of a remote data set names."""
    with tempfile.TemporaryDirectory(prefix="radsweep-") as place:
        for path in remote.files:
            target = Path(place) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if path in tables:
                target.symlink_to((folder / path).absolute())
            else:
                target.touch()
        try:
            manifest = load(config, Path(place))
        except DatasetError as error:
            where = error.where.replace(place, remote.address)
            raise DatasetError(error.what, where, error.expected, error.fix) from None
    return [PurePosixPath(path) for path in manifest.instances["path"].unique()]
