"""Web pages are asked for politely, within bounds, and never where nobody wanted to go."""

from __future__ import annotations

import gzip
import pickle
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ingestion.source import Found, Problem, Source, parse_sources
from ingestion.source.sitemap import parse_sitemap
from serving.errors import DocumentError, DocumentGone, SourceError, SourceUnavailable
from serving.settings import IngestionSettings, WebSettings
from tests.ingestion.site import Answer, Site, site

QUICK = WebSettings(backoff_s=0.01, timeout_s=5, attempts=3)
SUFFIXES = {".md", ".html", ".pdf", ".txt"}


@pytest.fixture
def web() -> Iterator[Site]:
    with site() as running:
        yield running


@pytest.fixture
def other() -> Iterator[Site]:
    with site() as running:
        running.page("/secret", "from within")
        yield running


def _source(text: str, web: WebSettings = QUICK, **patterns: Any) -> Source:
    (source,) = parse_sources([text], suffixes=SUFFIXES, settings=IngestionSettings(web=web), **patterns)
    return source


def _page(url: str, web: WebSettings = QUICK) -> Found:
    (found,) = _source(url, web).walk()
    assert isinstance(found, Found)
    return found


def _walk(source: Source) -> tuple[list[str], list[Problem]]:
    items = list(source.walk())
    return [i.uri for i in items if isinstance(i, Found)], [i for i in items if isinstance(i, Problem)]


def _urls(*locations: str) -> bytes:
    return b"<urlset>" + b"".join(b"<url><loc>%s</loc></url>" % one.encode() for one in locations) + b"</urlset>"


def test_a_page_is_read_with_its_format_and_fingerprint(web: Site) -> None:
    """The content type says the format; the copy on another machine reads the same."""
    web.page("/guide?page=2", "<p>Text</p>", "text/html; charset=utf-8", etag='"one"')
    found = _page(f"{web.url}/guide?page=2#part")
    assert found.uri == f"{web.url}/guide?page=2"
    for one in (found, pickle.loads(pickle.dumps(found))):
        body = one.read(1000)
        assert (body.data, body.format, body.fingerprint) == (b"<p>Text</p>", ".html", 'etag "one"')


def test_an_unchanged_page_is_not_sent_again(web: Site) -> None:
    """The site is asked with what it said of the page last."""

    def answer(headers: Mapping[str, str]) -> Answer:
        if headers.get("if-none-match") == '"one"':
            return Answer(status=304)
        return Answer(b"text", headers={"etag": '"one"', "content-type": "text/plain"})

    web.routes["/a.md"] = answer
    body = _page(f"{web.url}/a.md").read(1000)
    assert (body.data, body.format) == (b"text", ".md")
    again = _page(f"{web.url}/a.md").read(1000, body.fingerprint)
    assert (again.data, again.fingerprint) == (None, body.fingerprint)


@pytest.mark.parametrize("status", [404, 410])
def test_a_page_is_gone_when_the_site_says_so(web: Site, status: int) -> None:
    """And only then."""
    web.routes["/a.md"] = Answer(status=status)
    source = _source(f"{web.url}/a.md")
    with pytest.raises(DocumentGone):
        next(iter(source.walk())).read(1000)  # type: ignore[union-attr]
    assert source.gone(f"{web.url}/a.md")
    web.routes["/a.md"] = Answer(status=503)
    assert not source.gone(f"{web.url}/a.md")


def test_a_busy_site_is_asked_again_when_it_says(web: Site) -> None:
    """Retry-After goes before our own pace."""
    moments: list[float] = []

    def answer(_: Mapping[str, str]) -> Answer:
        moments.append(time.monotonic())
        if len(moments) == 1:
            return Answer(status=429, headers={"retry-after": "1"})
        return Answer(b"text", headers={"content-type": "text/plain"})

    web.routes["/a.md"] = answer
    assert _page(f"{web.url}/a.md").read(1000).data == b"text"
    assert moments[1] - moments[0] >= 0.95


def test_patience_has_a_bound(web: Site) -> None:
    """A number of attempts; a wait that is longer than the time there is, is not begun."""
    web.routes["/a.md"] = Answer(status=500)
    with pytest.raises(SourceUnavailable, match=r"/a\.md: the site answered 500 \(3 attempts\)"):
        _page(f"{web.url}/a.md").read(1000)
    assert web.times("/a.md") == 3
    web.routes["/a.md"] = Answer(status=503, headers={"retry-after": "3600"})
    with pytest.raises(SourceUnavailable) as caught:
        _page(f"{web.url}/a.md").read(1000)
    assert caught.value.retry_after_s == 3600


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(b"x" * 65536, endless=True), DocumentError),
        (Answer(b"x", length=10_000_000), DocumentError),
        (Answer(b"x", length=500), SourceUnavailable),
        (Answer(gzip.compress(b"x" * 100_000), headers={"content-encoding": "gzip"}), DocumentError),
        (Answer(b"no gzip", headers={"content-encoding": "gzip"}), DocumentError),
        (Answer(b"x", headers={"content-encoding": "br"}), DocumentError),
        (Answer(status=403), DocumentError),
        (Answer(b"x", headers={"content-type": "image/png"}), DocumentError),
        (Answer(status=302, headers={"location": "/a.md"}), DocumentError),
        (Answer(status=302, headers={"location": "file:///etc/passwd"}), DocumentError),
    ],
    ids=["endless", "too long", "cut", "bomb", "broken gzip", "brotli", "forbidden", "image", "circle", "elsewhere"],
)
def test_what_a_site_can_do(web: Site, answer: Answer, error: type[Exception]) -> None:
    """Each ends with its reason, without more memory than was allowed."""
    web.routes["/a.md"] = answer
    with pytest.raises(error) as caught:
        _page(f"{web.url}/a.md").read(10_000)
    assert type(caught.value) is error


def test_a_body_that_trickles_ends(web: Site) -> None:
    """However alive its connection looks."""
    web.routes["/a.md"] = Answer(b"x", endless=True, pause_s=0.05, headers={"content-type": "text/plain"})
    with pytest.raises(SourceUnavailable, match="took longer than"):
        _page(f"{web.url}/a.md", WebSettings(total_s=0.5)).read(1000)


def test_redirects_stay_with_whom_the_caller_named(web: Site, other: Site) -> None:
    """The named site may send us about itself, but not to another private address."""
    web.page("/new.md", "text", "text/plain")
    web.routes["/old.md"] = Answer(status=301, headers={"location": "/new.md"})
    assert _page(f"{web.url}/old.md").read(1000).data == b"text"
    web.routes["/bad.md"] = Answer(status=301, headers={"location": f"{other.url}/secret"})
    with pytest.raises(DocumentError, match="not public"):
        _page(f"{web.url}/bad.md").read(1000)
    assert other.asked == []
    allowed = QUICK.model_copy(update={"allow_private": True})
    assert _page(f"{web.url}/bad.md", allowed).read(1000).data == b"from within"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0x7f.1", "2130706433", "[::ffff:127.0.0.1]"])
def test_a_list_does_not_lead_to_private_addresses(tmp_path: Path, other: Site, host: str) -> None:
    """However they are written; a host that is allowed by name may be asked."""
    port = other.url.rpartition(":")[2]
    (tmp_path / "list.txt").write_text(f"http://{host}:{port}/secret\n")
    (found,) = _source(f"urls:{tmp_path}/list.txt").walk()
    assert isinstance(found, Found)
    with pytest.raises((DocumentError, SourceUnavailable)):
        found.read(1000)
    assert other.asked == []
    allowed = QUICK.model_copy(update={"allowed_hosts": ("127.0.0.1",)})
    (found,) = _source(f"urls:{tmp_path}/list.txt", allowed).walk()
    if host == "127.0.0.1":
        assert found.read(1000).data == b"from within"  # type: ignore[union-attr]


def test_credentials_go_to_their_host_and_nowhere_else(web: Site, other: Site) -> None:
    """Neither to a redirect's host nor into an address, a message or a copy's description."""
    web.routes["/a.md"] = Answer(status=301, headers={"location": f"{other.url}/secret"})
    named = web.url.replace("http://", "http://me:hidden@")
    found = _page(f"{named}/a.md?sig=abc&page=2", QUICK.model_copy(update={"allow_private": True}))
    web.routes["/a.md?sig=abc&page=2"] = web.routes["/a.md"]
    assert found.uri == f"{web.url}/a.md?page=2"
    assert found.read(1000).data == b"from within"
    assert web.asked[-1][1]["authorization"].startswith("Basic ")
    assert "authorization" not in other.asked[-1][1]
    assert "hidden" not in repr(found)
    assert "abc" not in repr(found)


def test_the_sites_encoding_goes_before_the_pages(web: Site) -> None:
    """With the mark of UTF-8 every reader sees it."""
    data = "<meta charset=utf-8><p>caf\u00e9</p>".encode("latin-1")
    web.routes["/a"] = Answer(data, headers={"content-type": "text/html; charset=iso-8859-1"})
    body = _page(f"{web.url}/a").read(1000)
    assert body.data is not None
    assert body.data.decode("utf-8-sig").endswith("caf\u00e9</p>")


def test_a_sitemap_index_leads_to_its_pages(web: Site) -> None:
    """Compressed or not; pages named twice are found once, what is left out later is gone."""
    child = _urls(f"{web.url}/a", f"{web.url}/b?x=1&amp;y=2", f"{web.url}/a")
    web.routes["/one.xml.gz"] = Answer(gzip.compress(child))
    web.routes["/two.xml"] = Answer(_urls(f"{web.url}/private/c", f"{web.url}/d.tmp"))
    index = f"<sitemapindex><sitemap><loc>{web.url}/one.xml.gz</loc></sitemap>"
    web.page("/sitemap.xml", f"{index}<sitemap><loc>{web.url}/two.xml</loc></sitemap></sitemapindex>")
    web.page("/robots.txt", "User-agent: *\nDisallow: /*vate/", "text/plain")
    source = _source(f"{web.url}/sitemap.xml", exclude=["*.tmp"])
    found, (problem,) = _walk(source)
    assert sorted(found) == [f"{web.url}/a", f"{web.url}/b?x=1&y=2"]
    assert (problem.uri, problem.failed) == (f"{web.url}/private/c", False)
    assert source.gone(f"{web.url}/old")
    assert source.gone(f"{web.url}/d.tmp")
    assert not source.gone(f"{web.url}/a")
    assert web.times("/robots.txt") == 1


def test_a_site_says_where_its_sitemap_lies(web: Site) -> None:
    """In robots.txt."""
    web.page("/robots.txt", f"Sitemap: {web.url}/map.xml", "text/plain")
    web.routes["/map.xml"] = Answer(_urls(f"{web.url}/a"))
    assert _walk(_source(f"sitemap:{web.url}"))[0] == [f"{web.url}/a"]


@pytest.mark.parametrize("answer", [Answer(status=500), Answer(b"<urlset><url>"), Answer(b"\x1f\x8bno"), Answer(b"no")])
def test_a_sitemap_that_cannot_be_read_makes_nothing_gone(web: Site, answer: Answer) -> None:
    """One of two hides what it would have named."""
    web.routes["/one.xml"] = answer
    web.routes["/two.xml"] = Answer(_urls(f"{web.url}/a"))
    maps = "".join(f"<sitemap><loc>{web.url}/{name}.xml</loc></sitemap>" for name in ("one", "two"))
    web.page("/sitemap.xml", f"<sitemapindex>{maps}</sitemapindex>")
    source = _source(f"{web.url}/sitemap.xml")
    found, (problem,) = _walk(source)
    assert (found, problem.folder) == ([f"{web.url}/a"], True)
    assert not source.gone(f"{web.url}/old")


def test_a_site_whose_rules_cannot_be_read_is_left_alone(web: Site) -> None:
    """RFC 9309: an error of the server forbids everything."""
    web.routes["/robots.txt"] = Answer(status=503)
    web.routes["/sitemap.xml"] = Answer(_urls(f"{web.url}/a"))
    found, (problem,) = _walk(_source(f"{web.url}/sitemap.xml"))
    assert (found, problem.failed) == ([], False)
    unruly = QUICK.model_copy(update={"respect_robots": False})
    assert _walk(_source(f"{web.url}/sitemap.xml", unruly))[0] == [f"{web.url}/a"]


def test_a_hostile_sitemap_is_refused() -> None:
    """Entities are never expanded; unpacking has a bound."""
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaa">]><urlset><url><loc>&a;</loc></url></urlset>'
    with pytest.raises(DocumentError, match="document type"):
        list(parse_sitemap(bomb))
    with pytest.raises(DocumentError, match="larger than"):
        list(parse_sitemap(gzip.compress(b"<urlset>" + b" " * 60_000_000)))


def test_a_list_of_addresses(tmp_path: Path) -> None:
    """Comments and repetitions are passed over; a bad line fails, with its number."""
    path = tmp_path / "list.txt"
    path.write_text(
        "# ours\nHTTP://Example.COM:80/a#x\n\nhttps://example.com/b # why\nhttp://example.com/a\nnonsense\n"
    )
    source = _source(f"urls:{path}")
    found, problems = _walk(source)
    assert found == ["http://example.com/a", "https://example.com/b"]
    assert [(problem.name.rpartition(" ")[2], problem.failed) for problem in problems] == [("5", False), ("6", True)]
    assert not source.gone("http://example.com/old")
    path.write_text("https://example.com/b\n")
    assert _walk(source)[0] == ["https://example.com/b"]
    assert source.covers("http://example.com/a", source.prefix)
    assert not source.covers("http://example.com/a", "elsewhere")
    assert source.gone("http://example.com/a")


def test_a_folder_of_a_web_server(web: Site) -> None:
    """Links below it are followed; its parent and the orders of its columns are not."""
    web.page("/f/", '<a href="../">up</a><a href="?C=M">by date</a><a href="a%20b.md">a</a><a href="x/">x</a>')
    web.page("/f/x/", f'<a href="/f/x/c.md">c</a><a href="{web.url}/f/x/d.bin">d</a><a href="http://other/e.md">e</a>')
    source = _source(f"{web.url}/f/**")
    found, problems = _walk(source)
    assert sorted(found) == [f"{web.url}/f/a%20b.md", f"{web.url}/f/x/c.md"]
    assert [problem.failed for problem in problems] == [False]
    assert source.covers(f"{web.url}/f/old.md", source.prefix)
    assert source.gone(f"{web.url}/f/old.md")
    web.routes["/f/x/"] = Answer(status=500)
    assert _walk(source)[1][0].folder
    assert not source.gone(f"{web.url}/f/old.md")


def test_nonsense_is_refused_at_once() -> None:
    """Without repeating what may be secret."""
    with pytest.raises(SourceError):
        _source("https:///page")
