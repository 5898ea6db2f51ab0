"""Images per second out of the cache, against the data-set classes of torchxrayvision and MONAI on the same files.

Before the peer is timed, an epoch of its images is compared with ours, file by file: the files are square, so that
all three make the same square of them, on scales of their own, which are stretched alike first.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.cache import ImageCache, open_cache, prepare
from datasets.dataset_config import DatasetConfig
from datasets.loaders import Batches
from datasets.manifest import Manifest
from datasets.sources import load
from datasets.torchvision_operators import declare_missing
from scripts.benchmarks._agreement import check_equal, check_grey_levels, stretched
from scripts.benchmarks._image_material import write_nih, write_rsna
from scripts.benchmarks.row import Row

BATCH = 32
GOAL = 5.0


@dataclass(frozen=True, slots=True)
class Files:
    """Files that ours and the peers read.

    Attributes:
        kind: PNG or DICOM.
        root: of the data set in its official layout.
        manifest: of it.
        scratch: folder for caches.
    """

    kind: str
    root: Path
    manifest: Manifest
    scratch: Path

    @property
    def train(self) -> list[str]:
        """Paths of the train partition relative to the root."""
        return [str(self.manifest.instances["path"].iloc[row]) for row in self.manifest.rows("train")]

    def name(self, row: int) -> str:
        """Return the file name of a row of the manifest."""
        return Path(self.manifest.instances["path"].iloc[row]).name


def run(*, quick: bool) -> list[Row]:
    """Measure whole epochs of the train partition, files and caches warm, one torch thread per worker."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    images = 160 if quick else 480
    with tempfile.TemporaryDirectory() as folder:
        for files in (_png(Path(folder) / "png", images), _dicom(Path(folder) / "dicom", images)):
            for side in (224, 512):
                cache = files.scratch / "cache"
                prepare(files.manifest, resolution=side, preprocessing="standard", cache=cache, workers=2)
                opened = open_cache(files.manifest, resolution=side, preprocessing="standard", cache=cache)
                for workers in (1, 2):
                    rows += _loaders(files, opened, side=side, workers=workers)
    return rows


def _png(folder: Path, images: int) -> Files:
    write_nih(folder / "nih", images=images, side=1024)
    config = DatasetConfig(name="nih", source="nih_chest_xray14", validation_fraction=0.05)
    return Files("PNG", folder / "nih", load(config, folder / "nih"), folder)


def _dicom(folder: Path, images: int) -> Files:
    write_rsna(folder / "rsna", images=images, side=1024)
    config = DatasetConfig(name="rsna", source="rsna_pneumonia", validation_fraction=0.05)
    return Files("DICOM", folder / "rsna", load(config, folder / "rsna"), folder)


def _loaders(files: Files, cache: ImageCache, *, side: int, workers: int) -> list[Row]:
    batches = Batches(files.manifest, cache, partition="train", batch_size=BATCH)
    floats = torch.empty(BATCH, 1, side, side)

    def epoch() -> Iterable[torch.Tensor]:
        """Make floats of the bytes, into a kept buffer: the peers deliver floats, so that counts."""
        for batch in batches.epoch(1, workers=workers):
            floats[: len(batch.rows)].copy_(batch.images)
            yield batch.rows

    images = {
        files.name(int(row)): image[0].numpy().astype(np.uint8)
        for rows in epoch()
        for row, image in zip(rows, floats, strict=False)  # the last batch is smaller
    }
    ours = _rate(epoch, seconds=3.0)
    copied = _copy_rate(cache.pixels)
    rows = []
    for name, start in (("torchxrayvision", _xrv), ("MONAI PersistentDataset", _monai)):
        described = f"Loader at {side} px, {files.kind}, {workers} worker(s): images/s, peer {name}"
        try:
            loader, names_of = start(files, side, workers)
        except ImportError as error:
            rows.append(
                Row(f"{described} (skipped: {error.name or error} cannot be imported)", ours, 0, 0, "≥ 5×", False)
            )
            continue
        _check_epoch(described, images, loader, names_of)  # also fills MONAI's cache, and the page cache for both
        peer = _rate(lambda loader=loader: (batch["img"] for batch in loader), seconds=4.0)  # type: ignore[misc]
        rows.append(Row(described, ours, peer, ours / peer, "≥ 5×", ours / peer >= GOAL))
    name = f"Loader at {side} px, {files.kind}, {workers} worker(s): images/s, share of a plain memory copy"
    rows.append(Row(name, ours, copied, ours / copied, "stated", True))
    return rows


def _check_epoch(
    described: str, images: dict[str, np.ndarray], loader: Any, names_of: Callable[[Any], list[str]]
) -> None:
    """Compare an epoch of the peer's with our images, by file name.

    Raises:
        RuntimeError: an image differs, or one side does not show the other's files once each.
    """
    shown: list[str] = []
    for batch in loader:
        for name, image in zip(names_of(batch), batch["img"], strict=True):
            check_grey_levels(f"{described}, {name}", images.get(name, np.empty(0)), stretched(image[0].numpy()))
            shown.append(name)
    check_equal(f"{described}, files of an epoch", sorted(images), sorted(shown))


def _rate(epoch: Callable[[], Iterable[Sized]], *, seconds: float) -> float:
    """Return images per second over as many whole epochs as fit, without the first."""
    _count(epoch())
    started, images = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        images += _count(epoch())
    return images / (time.perf_counter() - started)


def _copy_rate(pixels: np.ndarray) -> float:
    source = np.array(pixels[: min(len(pixels), 256)])
    target = np.empty_like(source)
    np.copyto(target, source)
    started, copies = time.perf_counter(), 0
    while time.perf_counter() - started < 1.0:
        np.copyto(target, source)
        copies += len(source)
    return copies / (time.perf_counter() - started)


def _xrv(files: Files, side: int, workers: int) -> tuple[Any, Callable[[Any], list[str]]]:
    declare_missing()
    import torchxrayvision
    from torchvision import transforms

    crop, resize = torchxrayvision.datasets.XRayCenterCrop(), torchxrayvision.datasets.XRayResizer(side, engine="cv2")
    steps = transforms.Compose([crop, resize])
    wanted = {Path(path).name for path in files.train}
    if files.kind == "PNG":
        dataset = torchxrayvision.datasets.NIH_Dataset(
            imgpath=str(files.root / "images"),
            csvpath=str(files.root / "Data_Entry_2017_v2020.csv"),
            bbox_list_path=torchxrayvision.datasets.USE_INCLUDED_FILE,
            transform=steps,
        )
        names = dataset.csv["Image Index"]
    else:
        dataset = torchxrayvision.datasets.RSNA_Pneumonia_Dataset(
            imgpath=str(files.root / "stage_2_train_images"),
            csvpath=str(files.root / "stage_2_train_labels.csv"),
            dicomcsvpath=str(files.root / "headers.csv"),
            extension=".dcm",
            transform=steps,
        )
        names = dataset.csv["patientId"] + ".dcm"
    rows = np.flatnonzero(names.isin(wanted))
    loader = _torch_loader(torch.utils.data.Subset(dataset, rows.tolist()), workers)
    return loader, lambda batch: list(names.iloc[batch["idx"].numpy()])


def _monai(files: Files, side: int, workers: int) -> tuple[Any, Callable[[Any], list[str]]]:
    declare_missing()
    from monai.data import PersistentDataset
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Resized, ScaleIntensityd

    # Rows stay rows; by default its readers turn an image on its side.
    reader: dict[str, Any] = (
        {"reader": "PILReader", "reverse_indexing": False}
        if files.kind == "PNG"
        else {"reader": "PydicomReader", "swap_ij": False}
    )
    steps = Compose(
        [
            LoadImaged(keys="img", **reader),
            EnsureChannelFirstd(keys="img"),
            Resized(keys="img", spatial_size=(side, side)),
            ScaleIntensityd(keys="img"),
        ]
    )
    items = [{"img": str(files.root / path), "name": Path(path).name} for path in files.train]
    loader = _torch_loader(PersistentDataset(items, steps, cache_dir=files.scratch / f"monai-{side}"), workers)
    return loader, lambda batch: batch["name"]


def _torch_loader(dataset: Any, workers: int) -> Any:
    return torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=True
    )


def _count(batches: Iterable[Sized]) -> int:
    return sum(len(batch) for batch in batches)
