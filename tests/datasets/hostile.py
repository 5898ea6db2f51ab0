"""Files that are small on disk and want gigabytes, lie in their headers, or never end; built on the spot."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.datasets.miniatures import picture, write_dicom, write_jpeg, write_png


def _deflated(content: bytes, *, last: bool = False) -> bytes:
    """Return a piece of a deflate stream that stands on its own, so that it can be repeated."""
    writer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return writer.compress(content) + writer.flush(zlib.Z_FINISH if last else zlib.Z_FULL_FLUSH)


def deflated_bomb(path: Path) -> str:
    """1.9 MB on disk, 1.9 GB once inflated: zeros in a private element before the pixels."""
    write_dicom(path, picture(1))
    content = path.read_bytes()
    end = 144 + int.from_bytes(content[140:144], "little")
    meta = pydicom.dcmread(path).file_meta
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    head = struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, 112 * 2**24)
    body = _deflated(head) + _deflated(bytes(2**24)) * 112 + _deflated(content[end:], last=True)
    with path.open("wb") as file:
        file.write(bytes(128) + b"DICM")
        pydicom.filewriter.write_file_meta_info(file, meta)
        file.write(body)
    return "inflates beyond"


def damaged_deflate(path: Path) -> str:
    """A deflated file whose stream is noise."""
    deflated_bomb(path)
    path.write_bytes(path.read_bytes()[:400] + bytes(range(256)) * 4)
    return "deflated data are damaged|no DICOM that can be parsed"


def _jpeg2000(values: np.ndarray) -> bytes:
    import openjpeg

    return bytes(openjpeg.encode(values))


def _encapsulated(path: Path, stream: bytes, *, rows: int, columns: int, syntax: str) -> None:
    write_dicom(path, picture(1))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


def jpeg2000_header_lie(path: Path) -> str:
    """Under 5 kB; both headers agree on 30,000 × 30,000 pixels."""
    stream = bytearray(_jpeg2000(picture(1, 32)))
    start = stream.find(b"\xff\x51") + 6
    stream[start : start + 8] = struct.pack(">II", 30_000, 30_000)
    stream[start + 16 : start + 24] = struct.pack(">II", 30_000, 30_000)
    _encapsulated(path, bytes(stream), rows=30_000, columns=30_000, syntax=JPEG2000Lossless)
    return "900 million pixels"


def jpeg2000_disagrees(path: Path) -> str:
    """The stream wants 30,000 × 30,000 pixels, the DICOM header says 32 × 32."""
    jpeg2000_header_lie(path)
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 32
    dataset.save_as(path)
    return "the stream declares 30000 × 30000"


def jpeg2000_many_tiles(path: Path) -> str:
    """5,900 × 5,900 pixels in tiles of one pixel: 35 million tile headers."""
    stream = bytearray(_jpeg2000(picture(1, 32)))
    start = stream.find(b"\xff\x51") + 6
    stream[start : start + 8] = struct.pack(">II", 5900, 5900)
    stream[start + 16 : start + 24] = struct.pack(">II", 1, 1)
    _encapsulated(path, bytes(stream), rows=5900, columns=5900, syntax=JPEG2000Lossless)
    return "34810000 tiles"


def jpeg2000_large_but_allowed(path: Path) -> str:
    """5,900 × 5,900 declared pixels, within the limit, with nothing behind them: the memory bound's business."""
    stream = bytearray(_jpeg2000(picture(1, 32)))
    start = stream.find(b"\xff\x51") + 6
    stream[start : start + 8] = struct.pack(">II", 5900, 5900)
    stream[start + 16 : start + 24] = struct.pack(">II", 5900, 5900)
    _encapsulated(path, bytes(stream), rows=5900, columns=5900, syntax=JPEG2000Lossless)
    return ""


def png_bomb(path: Path) -> str:
    """0.9 MB on disk, 30,000 × 30,000 black pixels."""
    body = b"\x78\xda" + _deflated(bytes(30_001 * 300)) * 100 + _deflated(b"", last=True)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)), (b"IDAT", body), (b"IEND", b"")]
    packed = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    return "900 million pixels"


def png_flipped_bit(path: Path) -> str:
    """One bit of the pixels flipped: the checksum of the chunk refuses it."""
    write_png(path, picture(1, 64))
    content = bytearray(path.read_bytes())
    content[200] ^= 4
    path.write_bytes(content)
    return ""


def png_without_header(path: Path) -> str:
    """Eight bytes of PNG and nothing else."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    return "PNG without a header"


def jpeg_lie(path: Path) -> str:
    """A JPEG of 24 × 24 that says 65,000 × 65,000."""
    write_jpeg(path.with_suffix(".jpg"), picture(1))
    content = bytearray(path.with_suffix(".jpg").read_bytes())
    path.with_suffix(".jpg").unlink()
    start = content.find(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", 65_000, 65_000)
    path.write_bytes(content)
    return "4225 million pixels"


def jpeg_in_dicom_disagrees(path: Path) -> str:
    """The stream inside declares another size than the DICOM header."""
    write_jpeg(path.with_suffix(".jpg"), picture(1))
    stream = path.with_suffix(".jpg").read_bytes()
    path.with_suffix(".jpg").unlink()
    _encapsulated(path, stream + b"\0" * (len(stream) % 2), rows=512, columns=512, syntax=JPEGBaseline8Bit)
    return "the stream declares 24 × 24"


def endless_rle(path: Path) -> str:
    """RLE whose segment table points everywhere."""
    stream = struct.pack("<16I", 15, *[64 + 3 * i for i in range(15)]) + b"\x81\x00" * 500
    _encapsulated(path, stream, rows=5900, columns=5900, syntax=RLELossless)
    return ""


def deep_sequences(path: Path) -> str:
    """Sequences nested 2,000 deep."""
    write_dicom(path, picture(1))
    content = path.read_bytes()
    nested = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    end = 144 + int.from_bytes(content[140:144], "little")
    path.write_bytes(content[:end] + nested * 2000 + content[end:])
    return "no DICOM that can be parsed|without"


def impossible_length(path: Path) -> str:
    """Pixel data that claim 4 GB."""
    write_dicom(path, picture(1))
    content = bytearray(path.read_bytes())
    place = content.find(b"\xe0\x7f\x10\x00OW") + 8
    content[place : place + 4] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(content)
    return ""


def four_billion_pixels(path: Path) -> str:
    """Rows and columns of 65,535."""
    write_dicom(path, picture(1))
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 65_535
    dataset.save_as(path)
    return "4295 million pixels"


def empty(path: Path) -> str:
    """Nothing at all."""
    path.write_bytes(b"")
    return "file is empty"


def noise(path: Path) -> str:
    """Bytes without meaning."""
    path.write_bytes(np.random.default_rng(0).bytes(100_000))
    return "neither PNG, JPEG nor DICOM"


def noise_called_dicom(path: Path) -> str:
    """The magic word, then bytes without meaning."""
    path.write_bytes(bytes(128) + b"DICM" + np.random.default_rng(0).bytes(100_000))
    return ""


HOSTILE: tuple[Callable[[Path], str], ...] = (
    deflated_bomb, damaged_deflate, jpeg2000_header_lie, jpeg2000_disagrees, jpeg2000_many_tiles,
    jpeg2000_large_but_allowed, png_bomb, png_flipped_bit, png_without_header, jpeg_lie, jpeg_in_dicom_disagrees,
    endless_rle, deep_sequences, impossible_length, four_billion_pixels, empty, noise, noise_called_dicom,
)  # fmt: skip
"""Each writes one file and returns a pattern of the reason it must get; '' where any end will do."""
