"""Sizes that image files declare, read from a few bytes before any decoder sees the file.

Decoders believe a header: a file of 5 kB that declares 60,000 × 60,000 pixels takes gigabytes. So the
header is read here first. JPEG 2000: ISO/IEC 15444-1 Annex A; JPEG: ISO/IEC 10918-1 Annex B; PNG: ISO/IEC 15948.
"""

import struct
from dataclasses import dataclass

from datasets.limits import Limits, Unreadable

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
JPEG2000 = b"\xff\x4f\xff\x51"
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}  # all SOFn, and JPEG-LS


@dataclass(frozen=True, slots=True)
class Jpeg2000Header:
    """What the main header of a codestream declares."""

    height: int
    width: int
    components: int
    precision: int
    signed: bool
    tiles: int
    levels: int


def png_size(content: bytes) -> tuple[int, int]:
    """Return (height, width) as the IHDR chunk declares them."""
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise Unreadable("PNG without a header")
    width, height = struct.unpack(">II", content[16:24])
    return height, width


def jpeg_size(content: bytes) -> tuple[int, int]:
    """Return (height, width) as the frame header declares them, for JPEG, JPEG lossless and JPEG-LS."""
    position = 2
    while position + 9 <= len(content):
        marker, code, length = content[position], content[position + 1], content[position + 2 : position + 4]
        if marker != 0xFF:
            break
        if code == 0xFF:  # a fill byte
            position += 1
            continue
        if code in _FRAME_MARKERS:
            height, width = struct.unpack(">HH", content[position + 5 : position + 9])
            return height, width
        position += 2 + int.from_bytes(length, "big")
    raise Unreadable("JPEG without a frame header")


def jpeg2000_header(content: bytes) -> Jpeg2000Header:
    """Return the SIZ and COD segments of a codestream, bare or inside a JP2 file."""
    start = content.find(JPEG2000, 0, 4096)
    siz = content[start + 6 : start + 6 + 38 + 3]
    if start < 0 or len(siz) < 39:
        raise Unreadable("JPEG 2000 without a header")
    x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack(">8IH", siz[2:36])
    if not (x0 < x1 and y0 < y1 and tile_x and tile_y and tile_x0 <= x0 and tile_y0 <= y0):
        raise Unreadable("JPEG 2000 header with an impossible size")
    tiles = -(-(x1 - tile_x0) // tile_x) * -(-(y1 - tile_y0) // tile_y)
    depth = siz[36]
    cod = content.find(b"\xff\x52", start, start + 65536)
    levels = content[cod + 9] if 0 <= cod < len(content) - 9 else 0
    return Jpeg2000Header(y1 - y0, x1 - x0, components, (depth & 0x7F) + 1, bool(depth & 0x80), tiles, min(levels, 32))


def check_size(height: int, width: int, limits: Limits) -> None:
    """Refuse a declared size that is empty or beyond the limit."""
    if height < 1 or width < 1:
        raise Unreadable(f"declares {height} × {width} pixels")
    if height * width > limits.pixels:
        raise Unreadable(f"declares {height * width / 1e6:.0f} million pixels, the limit is {limits.pixels / 1e6:.0f}")
