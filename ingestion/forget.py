"""Which documents somebody means who wants them forgotten, and the way back."""

from __future__ import annotations

import asyncio
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ingestion.source.local import uri_of
from serving.errors import InvalidRequest, NotFound
from serving.index.catalog import Catalog

_ID = re.compile(r"[0-9a-f]{32}")
_PATTERN = re.compile(r"[*?\[]")
#: Documents among which one of a similar name is looked for, and how many of those are said.
_LOOKED_THROUGH = 5_000
_NEAR = 3


async def documents_named(catalog: Catalog, collection: str, names: Sequence[str]) -> list[str]:
    """The uris of documents that are named by uri, by path or by id; each must be known in one of the builds.

    Raises UnknownCollection, InvalidRequest for a pattern, NotFound with near matches.
    """
    await catalog.collection(collection)
    return [await _document(catalog, collection, name) for name in names]


async def allow_again(catalog: Catalog, collection: str, names: Sequence[str]) -> list[str]:
    """Let ingestion take these forgotten documents again. Raises as `documents_named`, and NotFound for others."""
    await catalog.collection(collection)
    uris = []
    for name in names:
        uri = await _document(catalog, collection, name)
        if not await catalog.forgotten(collection, [uri]):
            raise NotFound(f"{name!r} is not forgotten in collection {collection!r}: there is nothing to allow.")
        uris.append(uri)
    await catalog.allow_again(collection, uris)
    return uris


async def _document(catalog: Catalog, collection: str, name: str) -> str:
    asked = _uris(name)
    passed_over = await catalog.forgotten(collection, asked)
    builds = sorted(await catalog.builds(collection), key=lambda build: not build.live)
    for build in builds:
        known = await catalog.lookup(build.key, asked)
        if found := next((uri for uri in asked if uri in known or uri in passed_over), None):
            return found
        if _ID.fullmatch(name) and (record := await catalog.document(build.key, name)):
            return record.uri
    if _PATTERN.search(name):
        raise InvalidRequest(
            f"{name!r} is a pattern, and no document has that name. Name each document: nothing is removed by accident."
        )
    near = await _near(catalog, builds[0].key, asked[-1])
    hint = f" Do you mean {' or '.join(map(repr, near))}?" if near else ""
    raise NotFound(f"Collection {collection!r} has no document {name!r}.{hint}")


def _uris(name: str) -> list[str]:
    """What the catalog may know it by: as it stands, and as a path."""
    return [name] if urlsplit(name).scheme else [name, uri_of(Path(name).expanduser())]


async def _near(catalog: Catalog, build: str, uri: str) -> list[str]:
    """Documents of similar uris, looked for from the same folder on; of a folder, what is in it."""
    known: list[str] = []
    async for record in catalog.documents(build, after=uri.rpartition("/")[0]):
        known.append(record.uri)
        if len(known) == _LOOKED_THROUGH:
            break
    if inside := [one for one in known if one.startswith(uri.rstrip("/") + "/")]:
        return inside[:_NEAR]
    return await asyncio.to_thread(difflib.get_close_matches, uri, known, _NEAR, 0.6)
