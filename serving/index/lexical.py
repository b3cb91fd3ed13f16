"""Text as BM25 sees it: the same treatment for documents and for questions.

The embedded Milvus has neither stemmer nor stop words, so this is done here, alike on every server: lower case, words
by Unicode, English stop words out, Snowball stems. Names like `kube-proxy` or `kubectl_get` count as a whole and by
their parts.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from collections.abc import Iterator

import Stemmer

# Runs of word characters joined by single connectors that names are made of.
_NAME = re.compile(r"[^\W_]+(?:[-_.:/'’][^\W_]+)*")
_PART = re.compile(r"[^\W_]+")
_APOSTROPHE = re.compile(r"['’]")

# The stop words of Apache Lucene's EnglishAnalyzer (Apache-2.0); then the question words and auxiliaries that
# questions put in front of what they are about.
_STOP_WORDS = frozenset(
    """
    a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to
    was will with
    am been can could did do does doing from had has have having he her here him his how i its just me my our she so
    some than them us we were what when where which while who whom whose why would you your
    """.split()  # noqa: SIM905 (reads better than eighty quoted words)
)

# A stemmer object keeps a buffer of its own and must not be shared between threads.
_local = threading.local()


def lexical(text: str) -> str:
    """Terms separated by blanks; empty when nothing is left to search for.

    A composed name gives its parts as terms and itself, written as one word, as one more: `kube-proxy` becomes
    `kube proxi kubeproxy`. No term holds a connector, because Milvus servers differ in where they split at one.
    """
    return " ".join(_terms(unicodedata.normalize("NFKC", text).lower()))


def _terms(text: str) -> Iterator[str]:
    for name in _NAME.findall(text):
        if name.isalnum():  # nearly all words: no connector, so one part
            if name not in _STOP_WORDS:
                yield _stem(name)
            continue
        parts = _PART.findall(_APOSTROPHE.sub("", name))
        for part in parts:
            if part not in _STOP_WORDS:
                yield _stem(part)
        if len(parts) > 1:
            yield "".join(parts)


@functools.lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    stemmer = getattr(_local, "stemmer", None)
    if stemmer is None:
        stemmer = _local.stemmer = Stemmer.Stemmer("english", 0)
    stem: str = stemmer.stemWord(word)
    return stem
