"""What a site asks of programs: its robots.txt, as RFC 9309 has it. The only importer of `protego`."""

from __future__ import annotations

import threading
from collections import OrderedDict

from protego import Protego

from ingestion.source.address import Address, parse_address
from ingestion.source.fetch import Fetcher
from serving.errors import DocumentError, SourceUnavailable

#: RFC 9309, 2.5: at least 500 kibibytes are read.
_MAX_BYTES = 2 * 1024 * 1024
_MAX_SITES = 256


class Robots:
    """The rules of the sites met last, each asked for once."""

    def __init__(self, fetcher: Fetcher, user_agent: str) -> None:
        self._fetcher = fetcher
        self._agent = user_agent.split("/")[0]
        self._lock = threading.Lock()
        self._sites: OrderedDict[str, Protego | None] = OrderedDict()

    def refuses(self, address: Address) -> str:
        """Why a page must be left out, '' if it need not be."""
        rules = self._rules(address)
        if rules is None:
            return "the site's robots.txt cannot be read, so it is left alone (RFC 9309)"
        return "" if rules.can_fetch(address.url, self._agent) else "the site's robots.txt forbids it"

    def sitemaps(self, address: Address) -> list[str]:
        """Those that the site names."""
        rules = self._rules(address)
        return [] if rules is None else list(rules.sitemaps)

    def _rules(self, address: Address) -> Protego | None:
        """No file means no rules; a site that does not answer forbids everything (RFC 9309, 2.3.1)."""
        root = address.url.split("/", 3)
        site = "/".join(root[:3])
        with self._lock:
            if site in self._sites:
                self._sites.move_to_end(site)
                return self._sites[site]
        rules: Protego | None
        try:
            data = self._fetcher.get(parse_address(f"{site}/robots.txt"), _MAX_BYTES).data
            rules = Protego.parse((data or b"").decode("utf-8", "replace"))
        except SourceUnavailable:
            rules = None
        except DocumentError:
            rules = Protego.parse("")
        with self._lock:
            self._sites[site] = rules
            while len(self._sites) > _MAX_SITES:
                self._sites.popitem(last=False)
        return rules
