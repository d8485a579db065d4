"""Recognizes the JPEG files that all decoders read alike, from the segments before their pixels."""

from __future__ import annotations

import numpy as np

_START, _END = b"\xff\xd8", b"\xff\xd9"
_BASELINE, _SCAN = 0xC0, 0xDA
_JFIF, _ADOBE = 0xE0, 0xEE
_TABLES = (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))  # Huffman, quantization, restart interval, comment, applications
_SAMPLING = ((1, 1), (2, 1), (2, 2), (1, 2), (4, 1))  # of luma, relative to chroma: 4:4:4, 4:2:2, 4:2:0, 4:4:0, 4:1:1


def is_plain_jpeg(raw: np.ndarray) -> bool:
    """Returns whether a JPEG file is baseline YCbCr with 8 bits, in a common subsampling, and not truncated.

    These are the files that JPEG engines of GPUs decode. Progressive ones are not among them: on a GPU, too, a CPU core
    decodes their entropy coding. Gray, CMYK and RGB files are not either, as decoders differ on what they return.

    Args:
        raw: Content of the file, uint8 `[N]`.
    """
    content = raw.tobytes()
    if not (content.startswith(_START) and content.endswith(_END)):
        return False
    frame, color_is_known, position = b"", False, len(_START)
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker, size = content[position + 1], int.from_bytes(content[position + 2 : position + 4], "big")
        body = content[position + 4 : position + 2 + size]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == _SCAN:
            return _is_plain_frame(frame, color_is_known)
        if marker == _BASELINE:
            frame = body
        elif marker not in _TABLES:
            return False
        if marker == _ADOBE and body[:5] == b"Adobe" and body[11:12] != b"\x01":
            return False  # not YCbCr
        color_is_known |= marker == _JFIF and body[:5] == b"JFIF\0"
        position += 2 + size
    return False


def _is_plain_frame(frame: bytes, color_is_known: bool) -> bool:
    # precision, height, width, number of components, and for each one its id, sampling factors and table
    if len(frame) != 15 or frame[0] != 8 or frame[5] != 3:
        return False
    if not color_is_known and (frame[6], frame[9], frame[12]) != (1, 2, 3):
        return False  # it may be RGB
    luma, *chroma = ((frame[i] >> 4, frame[i] & 15) for i in (7, 10, 13))
    return luma in _SAMPLING and chroma == [(1, 1), (1, 1)]
