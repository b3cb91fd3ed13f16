"""Bytes to text. The only importer of `charset_normalizer`."""

from __future__ import annotations

import codecs
import re

from serving.errors import DocumentError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_DECLARED = (
    re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]+)""", re.I),
    re.compile(rb"""\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([\w.:-]+)""", re.I),
)
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
#: Of encodings that fit equally well, the one most files have that are not UTF-8 (as browsers assume, too).
_USUAL = "cp1252"
#: Enough for a guess; the detector's time grows with what it reads.
_SAMPLE_BYTES = 128 * 1024
#: More control characters than this share of a text, and it is no text.
_CONTROL_SHARE = 0.01


def decode(data: bytes) -> str:
    """Text in whatever encoding, with line ends as `\\n`. Raises DocumentError for what is not text, or empty."""
    if not data.strip():
        raise DocumentError("empty")
    text = _decode(data).replace("\r\n", "\n").replace("\r", "\n")
    controls = len(_CONTROL.findall(text))
    if controls > max(1, len(text) * _CONTROL_SHARE):
        raise DocumentError("not text: the file holds binary data")
    text = _CONTROL.sub("", text)
    if not text.strip():
        raise DocumentError("empty")
    return text


def decode_markup(data: bytes) -> str:
    """`decode`, by what an HTML or XML file itself declares where that holds."""
    declared = next((match[1] for pattern in _DECLARED if (match := pattern.search(data[:4096]))), None)
    if declared is None or data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return decode(data)
    try:
        return decode(data.decode(declared.decode("ascii")).encode())
    except (LookupError, UnicodeError):
        return decode(data)


def _decode(data: bytes) -> str:
    for mark, name in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    if b"\x00" in data[:_SAMPLE_BYTES]:
        raise DocumentError("not text: the file holds binary data")
    return _mostly_utf8(data) or _guessed(data)


def _mostly_utf8(data: bytes) -> str | None:
    """UTF-8 with a few broken bytes is still UTF-8: another encoding would garble all the rest."""
    text = data.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    sound = sum(1 for character in text if character > "\x7f") - broken
    return text if broken * 4 <= sound else None


def _guessed(data: bytes) -> str:
    from charset_normalizer import from_bytes

    first = _NOT_ASCII.search(data)
    start = max(0, first.start() - 2048) if first else 0
    guesses = from_bytes(data[start : start + _SAMPLE_BYTES])
    best = guesses.best()
    if best is None:
        raise DocumentError("not text: no known encoding fits")
    equals = [guess for guess in guesses if (guess.chaos, guess.coherence) == (best.chaos, best.coherence)]
    usual = any(_USUAL in guess.could_be_from_charset for guess in equals)
    return data.decode(_USUAL if usual else best.encoding, "replace")
