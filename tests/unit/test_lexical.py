"""Text as BM25 sees it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.index.lexical import lexical


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("How do I configure Pods?", "configur pod"),
        ("The kube-proxy", "kube proxi kubeproxy"),
        ("kubectl_get", "kubectl get kubectlget"),
        ("networking.k8s.io/v1", "network k8s io v1 networkingk8siov1"),
        ("Don't, don’t", "dont dont"),
        ("ＣＡＦÉ café", "café café"),
        ("--force", "forc"),
        ("what is the", ""),
        ("?! \u0000\ud83d", ""),
    ],
)
def test_words_are_folded_stemmed_and_kept_by_name(text: str, terms: str) -> None:
    """Inflections meet at their stem, names count whole and in parts, stop words and signs do not count."""
    assert lexical(text) == terms


def test_question_and_document_meet() -> None:
    """The words of a question about something are among the words of the text that answers it."""
    question = set(lexical("Which policies are restricting pods?").split())
    assert question <= set(lexical("A policy restricts which pods may talk.").split())


@given(st.text())
def test_terms_are_words_that_any_server_splits_alike(text: str) -> None:
    """Only letters and digits between single blanks, and always valid Unicode."""
    terms = lexical(text)
    assert all(term.isalnum() or not term.isascii() for term in terms.split(" ") if term)
    assert "  " not in terms
    terms.encode()
