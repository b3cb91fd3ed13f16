"""The body of an upload: JSON or multipart/form-data, as documents of the catalog. Bounded while it arrives."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import mimetypes
from collections.abc import AsyncGenerator, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serving.api.body import bounded, parse_object, read_bounded
from serving.api.document_schemas import DocumentBody, UploadBody
from serving.errors import DeadlineExceeded, DocumentError, InvalidRequest
from serving.index.catalog_models import Upload, check_uri
from serving.settings import ApiSettings

#: A row of the store holds 64 kB of metadata, of which the file's own needs some.
MAX_METADATA_BYTES = 32_768
#: Larger bodies are parsed in a thread.
_LARGE_BYTES = 1_000_000
#: What a form may say of its files, in parts of its own, beside the files.
_TOLD = ("uri", "title", "format", "metadata")
_FORMATS = {"markdown": ".md", "text": ".txt"}
_TEXT_SUFFIXES = frozenset({".md", ".markdown", ".txt", ".text", ".html", ".htm", ".rst"})


async def read_uploads(request: Request, collection: str, settings: ApiSettings) -> list[Upload]:
    """The documents of a request. Raises BodyTooLarge, InvalidRequest, DeadlineExceeded, HTTPException (400, 415)."""
    given = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    as_json = given == "application/json" or (given.startswith("application/") and given.endswith("+json"))
    if not as_json and given != "multipart/form-data":
        raise HTTPException(415, f"The body is {given!r}; send application/json or multipart/form-data.")
    try:
        async with asyncio.timeout(settings.deadline_s):
            if as_json:
                documents = await _of_json(request, collection, settings)
            else:
                documents = await _of_form(request, collection, settings)
    except TimeoutError:
        raise DeadlineExceeded("The request's body did not arrive in time.", part="body") from None
    _check(documents)
    return documents


def digest_of(collection: str, documents: Sequence[Upload]) -> str:
    """Equal requests have equal ones: SHA-256, hex."""
    digest = hashlib.sha256(collection.encode())
    for document in documents:
        told = [document.uri, document.name, document.title, document.format, dict(document.metadata)]
        digest.update(orjson.dumps([told, len(document.data)], option=orjson.OPT_SORT_KEYS))
        digest.update(document.data)
    return digest.hexdigest()


# -- JSON --------------------------------------------------------------------------------------------------------------


async def _of_json(request: Request, collection: str, settings: ApiSettings) -> list[Upload]:
    raw = await read_bounded(request.stream(), request.headers, settings.max_upload_bytes)
    if len(raw) < _LARGE_BYTES:
        return _parsed(raw, collection, settings.max_upload_documents)
    return await asyncio.to_thread(_parsed, raw, collection, settings.max_upload_documents)


def _parsed(raw: bytes, collection: str, limit: int) -> list[Upload]:
    body = parse_object(raw)
    several = "documents" in body
    if several and isinstance(body["documents"], list) and len(body["documents"]) > limit:
        raise _too_many(limit)
    try:
        documents = UploadBody.model_validate(body).documents if several else [DocumentBody.model_validate(body)]
    except ValidationError as error:
        found = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors(include_url=False)]
        raise RequestValidationError(found, body=body) from None
    return [
        _upload(document, collection, f"documents[{place}]." if several else "")
        for place, document in enumerate(documents)
    ]


def _upload(document: DocumentBody, collection: str, where: str) -> Upload:
    data = document.text.encode() if document.text is not None else _decoded(document.content or "", where)
    name = document.name or document.id or _last_part(document.uri or "")
    suffix = _suffix(document.format)
    if document.text is not None and not suffix and PurePosixPath(name).suffix.lower() not in _TEXT_SUFFIXES:
        suffix = ".txt"
    if not suffix and not PurePosixPath(name).suffix:
        raise InvalidRequest(
            f"{where}content: what kind of file is it? Give a 'name' with a suffix, or a 'format' (pdf, docx ...).",
            param=f"{where}content",
        )
    metadata = _metadata(document.metadata or {}, f"{where}metadata")
    uri = document.uri or _made_uri(collection, document.id or document.name or "", data, document.title or "")
    return Upload(uri, data, name, document.title or "", suffix, metadata)


def _decoded(content: str, where: str) -> bytes:
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{where}content: not base64 ({error}).", param=f"{where}content") from None


# -- forms -------------------------------------------------------------------------------------------------------------


async def _of_form(request: Request, collection: str, settings: ApiSettings) -> list[Upload]:
    limit = settings.max_upload_documents
    body = bounded(request.stream(), request.headers, settings.max_upload_bytes)
    form = await _Streamed(request, body).form(
        max_files=limit + 1, max_fields=len(_TOLD) * (limit + 1), max_part_size=MAX_METADATA_BYTES
    )
    try:
        return await _of_parts(form, collection, limit)
    finally:
        await form.close()


class _Streamed(Request):
    """A request whose body comes from somewhere else."""

    def __init__(self, request: Request, body: AsyncGenerator[bytes]) -> None:
        super().__init__(request.scope)
        self._body_stream = body

    def stream(self) -> AsyncGenerator[bytes]:
        return self._body_stream


async def _of_parts(form: FormData, collection: str, limit: int) -> list[Upload]:
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise InvalidRequest("The form has no file: send one in a part of its own, with a file name.", param="file")
    if len(files) > limit:
        raise _too_many(limit)
    told = {name: _told(form, name, len(files)) for name in _TOLD}
    uploads = []
    for place, file in enumerate(files):
        uri, title, form_of, metadata = (told[name][place] for name in _TOLD)
        uploads.append(await _file(file, collection, uri, title, form_of, _json(metadata)))
    return uploads


def _told(form: FormData, name: str, files: int) -> list[str]:
    """What the form says under a name, for each of its files: once for all of them, or once for each, in order."""
    given = [value for value in form.getlist(name) if isinstance(value, str)]
    shared = name in ("format", "metadata") or files == 1
    if len(given) == 1 and shared:
        return given * files
    if len(given) not in (0, files):
        once = " or once for all of them" if shared else ""
        raise InvalidRequest(f"{name}: {len(given)} for {files} files; give one for each, in order{once}.", param=name)
    return given or [""] * files


async def _file(file: UploadFile, collection: str, uri: str, title: str, form: str, metadata: dict[str, Any]) -> Upload:
    name = PurePosixPath((file.filename or "").replace("\\", "/")).name[:512]
    data = await file.read()
    suffix = _suffix(form)
    if not suffix and not PurePosixPath(name).suffix:
        suffix = mimetypes.guess_extension((file.content_type or "").partition(";")[0].strip()) or ""
    return Upload(
        uri=uri or _made_uri(collection, name, data, title),
        data=data,
        name=name,
        title=title[:1000],
        format=suffix[:32],
        metadata=metadata,
    )


def _json(metadata: str) -> dict[str, Any]:
    if not metadata.strip():
        return {}
    try:
        parsed = orjson.loads(metadata)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"metadata: it is not valid JSON: {error}.", param="metadata") from None
    if not isinstance(parsed, dict):
        raise InvalidRequest("metadata: it must be a JSON object.", param="metadata")
    return _metadata(parsed, "metadata")


# -- both --------------------------------------------------------------------------------------------------------------


def _check(documents: Sequence[Upload]) -> None:
    seen: dict[str, int] = {}
    for place, document in enumerate(documents):
        try:
            check_uri(document.uri)
        except DocumentError as error:
            raise InvalidRequest(f"documents[{place}].uri: {error}", param=f"documents[{place}].uri") from None
        first = seen.setdefault(document.uri, place)
        if first != place:
            raise InvalidRequest(
                f"documents[{place}].uri: {document.uri[:200]!r} is that of documents[{first}], too.",
                param=f"documents[{place}].uri",
            )


def _metadata(metadata: dict[str, Any], where: str) -> dict[str, Any]:
    size = len(orjson.dumps(metadata))
    if size > MAX_METADATA_BYTES:
        raise InvalidRequest(
            f"{where}: {size:,} bytes; a document may have {MAX_METADATA_BYTES:,} bytes of metadata.", param=where
        )
    return metadata


def _suffix(form: str | None) -> str:
    form = (form or "").strip().lower()
    return _FORMATS.get(form, f".{form.removeprefix('.')}") if form else ""


def _last_part(uri: str) -> str:
    return PurePosixPath(uri.partition("?")[0].partition("#")[0]).name[:512]


def _made_uri(collection: str, name: str, data: bytes, title: str) -> str:
    """The same for the same name, or without a name for the same content."""
    if not name:
        name = hashlib.sha256(title.encode() + b"\0" + data).hexdigest()[:32]
    return f"anchorage://{collection}/{quote(name, safe='/:@!$&()*+,;=')}"


def _too_many(limit: int) -> InvalidRequest:
    return InvalidRequest(f"documents: more than the {limit:,} that one upload may have.", param="documents")
