"""DICOM radiographs: stored values, and the table that turns them into what a viewer shows.

The only file that touches pydicom. PS3.3 C.7.6.3 (image pixel), C.11.1 (modality LUT), C.11.2 (VOI LUT).
"""

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from struct import error as struct_error

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.uid import (
    HTJ2K,
    ComputedRadiographyImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from datasets.headers import check_size, jpeg2000_header, jpeg_size
from datasets.jpeg2000 import decode_reduced
from datasets.limits import Limits, Unreadable
from datasets.radiograph import Radiograph, luma

_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_JPEG2000 = (*JPEG2000TransferSyntaxes, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)
_JPEG = (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes)
_MAX_TILES = 4096
_JPEG_END = b"\xff\xd9"


def is_dicom(head: bytes) -> bool:
    """Say whether a file that begins so is worth trying as DICOM, with or without its preamble."""
    return head[128:132] == b"DICM" or head[:2] in (b"\x02\x00", b"\x08\x00")


def read(content: bytes, *, cover: int | None, window: int | None, limits: Limits) -> Radiograph:
    """Decode a radiograph.

    MONOCHROME1 is turned, so that more is brighter. Colour of 8 bits becomes grey by luma. Refused, since
    none of them is a radiograph: several frames, palettes, 1-bit masks, floats, more than 16 bits.

    Args:
        content: the whole file.
        cover: JPEG 2000 is decoded at the smallest of its resolutions whose shorter side is at least
            this many pixels; None decodes in full.
        window: which of several windows or VOI LUTs to apply, from 0; past the last one, the last; None, none.
        limits: of declared pixels and inflated bytes; memory and time are bounded by the process.

    Raises:
        Unreadable: with the reason, free of identifiers.
    """
    dataset = _parse(content, limits)
    _check_kind(dataset, limits)
    if dataset.SamplesPerPixel == 3:
        return Radiograph(luma(_decode(dataset)), 8, None)
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    values = _reduced(dataset, cover) if cover is not None else None
    values = _decode(dataset) if values is None else values
    values = _from_zero(values, bits, signed)
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    if inverted:
        values = np.subtract(values.dtype.type(2**bits - 1), values)
    return Radiograph(values, bits, display_table(dataset, window=window, inverted=inverted))


def display_table(dataset: pydicom.Dataset, *, window: int | None, inverted: bool = False) -> np.ndarray | None:
    """Tabulate rescale (or modality LUT) and window (or VOI LUT) over every possible stored value.

    The entries are what pydicom's `apply_modality_lut` and `apply_voi_lut` give for that value, scaled
    so that the ends of their output range are 0 and 1. Two deviations, both from the standard's text: a
    negative rescale slope does not turn the output around (C.11.2.1.2: larger in, larger out; pydicom 3.0
    turns it), and a window without a positive width is no window.

    Args:
        dataset: with BitsStored, PixelRepresentation and the modality and VOI elements.
        window: as in `read`.
        inverted: tabulate for turned values (MONOCHROME1): entry v belongs to the stored value 2**bits - 1 - v.

    Returns:
        float32 (2**bits,) over stored values counted from the smallest; None where nothing applies.
    """
    shown = raw_display_table(dataset, window=window, reflect=inverted)
    if shown is None:
        return None
    values, turned = shown
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise Unreadable("modality or VOI LUT gives values that are not finite")
    unit = (values.astype(np.float64) - low) / max(high - low, 1e-12)
    return (1 - unit[::-1] if turned else unit).astype(np.float32)


def raw_display_table(
    dataset: pydicom.Dataset, *, window: int | None, reflect: bool = False
) -> tuple[np.ndarray, bool] | None:
    """Return pydicom's display value of each stored value, unscaled, and whether it still has to be turned.

    A window is reflected exactly in its own terms (centre and stored values), so that a MONOCHROME1 file
    and its MONOCHROME2 twin share every bit of the table; a lookup table is turned afterwards.
    """
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    tags = _display_tags(dataset)
    lowest = -(2 ** (bits - 1)) if signed else 0
    stored = np.arange(lowest, lowest + 2**bits, dtype=np.int32)
    tabled = "ModalityLUTSequence" in tags or ("VOILUTSequence" in tags and window is not None)
    if reflect and not tabled:
        _reflect(tags, total=2 * lowest + 2**bits - 1)
    try:
        shown = apply_modality_lut(stored, tags)
        if window is not None and _views(tags):
            shown = apply_voi_lut(shown, tags, index=min(window, _views(tags) - 1))
    except (ValueError, TypeError, IndexError, NotImplementedError, AttributeError, struct_error) as error:
        raise Unreadable(f"modality or VOI LUT cannot be applied: {type(error).__name__}") from None
    if shown is stored:
        return None
    windowed = "WindowCenter" in tags and "VOILUTSequence" not in tags and window is not None
    if windowed and float(tags.get("RescaleSlope", 1) or 1) < 0:
        shown = shown.max() + shown.min() - shown
    return shown, reflect and tabled


def write(path: Path, values: np.ndarray, *, bits: int, tags: Mapping[str, object], uid: str) -> None:
    """Write a grey radiograph as uncompressed DICOM (Computed Radiography), the same bytes for the same arguments.

    Args:
        path: of the file.
        values: uint16 (H, W), stored values below 2**bits.
        bits: stored.
        tags: further elements by keyword, e.g. PatientID, ViewPosition, PhotometricInterpretation.
        uid: SOP instance UID.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = "2.25.1"
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = ComputedRadiographyImageStorage, uid, "CR"
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.PixelData = values.astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)


def _parse(content: bytes, limits: Limits) -> pydicom.Dataset:
    _check_inflated(content, limits)
    try:
        dataset = pydicom.dcmread(io.BytesIO(content), force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:  # a file without preamble and meta group
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    except MemoryError:
        raise
    except Exception as error:  # any: pydicom's parser raises whatever the broken bytes lead it to
        raise Unreadable(f"no DICOM that can be parsed: {type(error).__name__}") from None
    if "PixelData" not in dataset:
        raise Unreadable("DICOM without pixel data")
    return dataset


def _check_inflated(content: bytes, limits: Limits) -> None:
    """Refuse a deflated file (PS3.5 A.5) that grows beyond the limit, inflating no more than that."""
    if DeflatedExplicitVRLittleEndian.encode() not in content[:2048]:
        return
    start = 144 + int.from_bytes(content[140:144], "little")
    try:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:], limits.inflated + 1)
    except zlib.error:
        raise Unreadable("deflated data are damaged") from None
    if len(inflated) > limits.inflated:
        raise Unreadable(f"inflates beyond {limits.inflated / 1e6:.0f} MB")


def _check_kind(dataset: pydicom.Dataset, limits: Limits) -> None:
    try:
        rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel)
        stored, allocated, frames = int(dataset.BitsStored), int(dataset.BitsAllocated), dataset.get("NumberOfFrames")
        photometric = str(dataset.PhotometricInterpretation)
        frames = int(frames or 1)
        dataset.PixelRepresentation = int(dataset.get("PixelRepresentation") or 0)
    except (AttributeError, TypeError, ValueError):
        raise Unreadable("DICOM without a whole image description") from None
    check_size(rows, columns, limits)
    if frames != 1:
        raise Unreadable(f"{frames} frames; a radiograph has one")
    if photometric not in (_GREY if samples == 1 else _COLOUR if samples == 3 else ()):
        raise Unreadable(f"photometric interpretation with {samples} samples is no radiograph's")
    if not (1 < stored <= allocated <= 16) or (samples == 3 and stored != 8):
        raise Unreadable(f"{stored} bits stored in {allocated}, {samples} samples per pixel")
    _check_high_bit(dataset, stored)
    _check_codestream(dataset, rows, columns)


def _check_high_bit(dataset: pydicom.Dataset, stored: int) -> None:
    """Refuse stored values that do not begin at the lowest bit (PS3.5 8.1.1): they would be read as other values.

    The decoders of JPEG and JPEG 2000 deliver them at the lowest bit, whatever the header says.
    """
    if dataset.file_meta.TransferSyntaxUID in (*_JPEG, *_JPEG2000):
        return
    high = dataset.get("HighBit")
    if high is not None and high != stored - 1:
        raise Unreadable(f"the high bit is not bit {stored - 1} with {stored} bits stored")


def _check_codestream(dataset: pydicom.Dataset, rows: int, columns: int) -> None:
    """Hold what the compressed stream declares against the DICOM header, before a decoder believes it."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in _JPEG2000 and syntax not in _JPEG:
        return
    stream = _frame(dataset)
    if syntax in _JPEG:
        declared = jpeg_size(stream)
        if _JPEG_END not in stream.rstrip(b"\0")[-64:]:  # some writers leave a few bytes behind it
            raise Unreadable("the JPEG stream is cut off")
    else:
        header = jpeg2000_header(stream)
        declared = (header.height, header.width)
        if header.tiles > _MAX_TILES:
            raise Unreadable(f"JPEG 2000 in {header.tiles} tiles")
        if header.components != dataset.SamplesPerPixel:
            raise Unreadable(f"JPEG 2000 with {header.components} components")
    if declared != (rows, columns):
        raise Unreadable(f"the stream declares {declared[0]} × {declared[1]} pixels, the header {rows} × {columns}")


def _frame(dataset: pydicom.Dataset) -> bytes:
    try:
        return bytes(next(generate_frames(dataset.PixelData, number_of_frames=1)))
    except (ValueError, StopIteration, TypeError, struct_error) as error:
        raise Unreadable(f"pixel data are not encapsulated as they should be: {type(error).__name__}") from None


def _decode(dataset: pydicom.Dataset) -> np.ndarray:
    try:
        return np.asarray(pixel_array(dataset))
    except MemoryError:
        raise
    except Exception as error:  # any: three decoders, each with exceptions of its own
        raise Unreadable(f"pixel data cannot be decoded: {type(error).__name__}") from None


def _reduced(dataset: pydicom.Dataset, cover: int) -> np.ndarray | None:
    """Decode JPEG 2000 at the smallest resolution that covers; None where the plain path must serve."""
    if dataset.file_meta.TransferSyntaxUID not in _JPEG2000:
        return None
    stream = _frame(dataset)
    header = jpeg2000_header(stream)
    if header.precision != dataset.BitsStored or header.signed != bool(dataset.PixelRepresentation):
        return None  # pydicom knows how to read a stream that disagrees with its header
    return decode_reduced(stream, header, cover=cover)


def _from_zero(values: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """Return stored values as uint8 or uint16 counted from the smallest; bits above the stored ones are dropped."""
    if values.ndim != 2:
        raise Unreadable(f"{values.ndim}-dimensional pixel data")
    kind = np.uint8 if bits <= 8 else np.uint16
    if signed:
        values = np.clip(values.astype(np.int32), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + 2 ** (bits - 1)
    elif values.dtype.itemsize * 8 > bits and int(values.max()) >= 2**bits:
        values = values & values.dtype.type(2**bits - 1)
    return values.astype(kind, copy=False)


def _display_tags(dataset: pydicom.Dataset) -> pydicom.Dataset:
    """Copy what decides about display, leaving out what is empty or impossible."""
    tags = pydicom.Dataset()
    tags.PhotometricInterpretation = "MONOCHROME2"
    tags.BitsStored, tags.PixelRepresentation = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    for keyword in ("RescaleSlope", "RescaleIntercept", "VOILUTFunction", "ModalityLUTSequence", "VOILUTSequence"):
        if dataset.get(keyword) not in (None, "", []):
            tags[keyword] = dataset[keyword]
    if hasattr(dataset, "file_meta"):
        tags.file_meta = dataset.file_meta
    windows = _windows(dataset)
    if windows:
        tags.WindowCenter = [centre for centre, _ in windows]
        tags.WindowWidth = [width for _, width in windows]
    return tags


def _windows(dataset: pydicom.Dataset) -> list[tuple[float, float]]:
    try:
        centres = np.atleast_1d(np.asarray(dataset.get("WindowCenter"), dtype=float))
        widths = np.atleast_1d(np.asarray(dataset.get("WindowWidth"), dtype=float))
    except (TypeError, ValueError):
        return []
    pairs = zip(centres.tolist(), widths.tolist(), strict=False)
    # PS3.3 C.11.2.1.2 and C.11.2.1.3: at least 1 for LINEAR, which divides by width - 1, else anything above 0
    any_width = str(dataset.get("VOILUTFunction")).upper() in ("LINEAR_EXACT", "SIGMOID")
    return [
        (centre, width)
        for centre, width in pairs
        if np.isfinite(centre) and np.isfinite(width) and (width >= 1 or (any_width and width > 0))
    ]


def _views(tags: pydicom.Dataset) -> int:
    if "VOILUTSequence" in tags:
        return len(tags.VOILUTSequence)
    return int(tags["WindowCenter"].VM) if "WindowCenter" in tags else 0


def _reflect(tags: pydicom.Dataset, *, total: int) -> None:
    """Move the windows to where they belong once every stored value v has become total - v."""
    if "WindowCenter" not in tags:
        return
    slope, intercept = float(tags.get("RescaleSlope", 1)), float(tags.get("RescaleIntercept", 0))
    odd = 1 if str(tags.get("VOILUTFunction", "LINEAR")).upper() == "LINEAR" else 0  # its centre lies half a step off
    centres = np.atleast_1d(np.asarray(tags.WindowCenter, dtype=float))
    tags.WindowCenter = [slope * total + 2 * intercept - centre + odd for centre in centres.tolist()]
