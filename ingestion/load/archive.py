"""Zip archives, which office files and books are: opened only when what they hold unpacked is bounded."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from serving.errors import DocumentError

#: All parts of one file, unpacked. A zip's own sizes can be relied on: `zipfile` reads no more than they say.
MAX_UNPACKED_BYTES = 512 * 1024**2
#: Parts of one file.
MAX_PARTS = 20_000
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
#: The part by which a kind of file is known.
_KNOWN_BY = {
    "word/document.xml": ".docx",
    "ppt/presentation.xml": ".pptx",
    "xl/workbook.xml": ".xlsx",
    "xl/workbook.bin": ".xlsb",
    "META-INF/container.xml": ".epub",
}
_ODS = b"application/vnd.oasis.opendocument.spreadsheet"
#: What the parsers of these formats raise for a file that is not what its name says; all of it is the file's fault.
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
)


def kind_of(data: bytes) -> str | None:
    """The suffix that a zip archive should have; None for one of no known kind, or a broken one."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.NameToInfo
            for part, suffix in _KNOWN_BY.items():
                if part in names:
                    return suffix
            if "mimetype" in names and names["mimetype"].file_size < 100 and archive.read("mimetype").strip() == _ODS:
                return ".ods"
    except _ERRORS:
        return None
    return None


@contextmanager
def opened(data: bytes, kind: str) -> Iterator[zipfile.ZipFile]:
    """The archive, its bounds checked; whatever goes wrong inside is told as a broken file of that `kind`.

    Raises DocumentError: not an archive, too large unpacked, encrypted, broken.
    """
    if data.startswith(_OLE):
        raise DocumentError(f"encrypted, or an older binary format: save it as {kind} without a password")
    if not data.startswith(b"PK"):
        raise DocumentError(f"not {kind}: its first bytes are of another kind of file")
    with broken(kind), zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
        unpacked = sum(part.file_size for part in parts)
        if unpacked > MAX_UNPACKED_BYTES or len(parts) > MAX_PARTS:
            raise DocumentError(
                f"too large: {unpacked / 1e6:,.0f} MB in {len(parts):,} parts when unpacked; the limits are "
                f"{MAX_UNPACKED_BYTES / 1e6:,.0f} MB and {MAX_PARTS:,} parts"
            )
        if any(part.flag_bits & 1 for part in parts):
            raise DocumentError("encrypted: it opens only with a password")
        yield archive


@contextmanager
def broken(kind: str) -> Iterator[None]:
    """Errors of parsing libraries as a DocumentError that names the `kind` of file."""
    try:
        yield
    except RecursionError as error:
        raise DocumentError(f"broken {kind}: nested too deeply") from error
    except (AttributeError, TypeError) as error:  # the library found something else than it looks for
        raise DocumentError(f"broken {kind}: its parts are not what they should be") from error
    except _ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DocumentError(f"broken {kind}: {reason}") from error
