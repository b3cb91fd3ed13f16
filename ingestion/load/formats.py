"""Which loader reads which file: by the content's own mark where it has a clear one, else by suffix or name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePath
from typing import TypeAlias

from ingestion.load.archive import kind_of
from ingestion.load.code import load_code
from ingestion.load.docx import load_docx
from ingestion.load.epub import load_epub
from ingestion.load.html import load_html
from ingestion.load.languages import LANGUAGES
from ingestion.load.loaded import Loaded
from ingestion.load.mail import load_mail
from ingestion.load.markdown import load_markdown
from ingestion.load.outline import load_asciidoc, load_org, load_rst, load_text
from ingestion.load.pdf import load_pdf
from ingestion.load.pptx import load_pptx
from ingestion.load.tables import load_csv, load_jsonl, load_tsv, load_workbook
from ingestion.load.trees import load_json, load_xml
from serving.errors import DocumentError

Loader: TypeAlias = Callable[[bytes], Loaded]

_LOADERS: Mapping[str, Loader] = {
    ".md": load_markdown,
    ".markdown": load_markdown,
    ".mdx": load_markdown,
    ".txt": load_text,
    ".text": load_text,
    ".log": load_text,
    ".rst": load_rst,
    ".adoc": load_asciidoc,
    ".asciidoc": load_asciidoc,
    ".org": load_org,
    ".html": load_html,
    ".htm": load_html,
    ".xhtml": load_html,
    ".pdf": load_pdf,
    ".docx": load_docx,
    ".docm": load_docx,
    ".pptx": load_pptx,
    ".pptm": load_pptx,
    ".xlsx": load_workbook,
    ".xlsm": load_workbook,
    ".xlsb": load_workbook,
    ".xls": load_workbook,
    ".ods": load_workbook,
    ".csv": load_csv,
    ".tsv": load_tsv,
    ".jsonl": load_jsonl,
    ".ndjson": load_jsonl,
    ".json": load_json,
    ".xml": load_xml,
    ".epub": load_epub,
    ".eml": load_mail,
    **{suffix: partial(load_code, language=language) for suffix, language in LANGUAGES.items()},
}
#: Files that have a name instead of a suffix.
_NAMED: Mapping[str, Loader] = {
    **dict.fromkeys(
        ("authors", "changelog", "contributing", "copying", "install", "license", "news", "notice", "readme", "todo"),
        load_text,
    ),
    "containerfile": partial(load_code, language="dockerfile"),
    "dockerfile": partial(load_code, language="dockerfile"),
    "gemfile": partial(load_code, language="ruby"),
    "jenkinsfile": partial(load_code, language="groovy"),
    "makefile": partial(load_code, language="makefile"),
    "rakefile": partial(load_code, language="ruby"),
}
#: What a folder is searched for: suffixes in lower case, and whole names of files that have none.
SUFFIXES = frozenset(_LOADERS) | frozenset(_NAMED)

_TEXTS = frozenset({".md", ".markdown", ".txt", ".text"})
_HTML = re.compile(rb"\s*(?:<!doctype\s+html|<html[\s>])", re.I)


def loader_for(name: str, format: str | None, data: bytes | bytearray) -> Loader:
    """Raises DocumentError for a kind of file that nothing here reads."""
    loader = _by_name(name) if format is None else _LOADERS.get(format.lower())
    if loader is None:
        raise DocumentError(
            f"files of kind {format or PurePath(name).suffix or PurePath(name).name!r} are not supported"
        )
    own = _by_content(data, PurePath(name).suffix.lower() if format is None else "")
    return _LOADERS[own] if own else loader


def _by_name(name: str) -> Loader | None:
    path = PurePath(name)
    suffix = path.suffix.lower()
    return _LOADERS.get(suffix) if suffix else _NAMED.get(path.name.lower())


def _by_content(data: bytes | bytearray, suffix: str) -> str | None:
    """The suffix that the first bytes call for, if they are clear: names lie."""
    if data.startswith(b"%PDF-"):
        return ".pdf"
    if data.startswith(b"PK\x03\x04"):
        return kind_of(bytes(data))
    if suffix in _TEXTS and _HTML.match(data):
        return ".html"
    return None
