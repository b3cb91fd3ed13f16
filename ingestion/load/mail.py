"""E-mail (.eml): who wrote what to whom, and the text; attachments are named, not read."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from typing import Any

from ingestion.encoding import decode_markup
from ingestion.front_matter import plain
from ingestion.load.archive import broken
from ingestion.load.html import Shown
from ingestion.load.loaded import Loaded
from serving.errors import DocumentError

_HEADERS = ("From", "To", "Cc", "Date")


def load_mail(data: bytes) -> Loaded:
    """Raises DocumentError: no message, empty."""
    with broken("e-mail"):
        message = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        headers = {name: " ".join(str(message[name]).split()) for name in _HEADERS if message[name]}
        if not headers:
            raise DocumentError("not an e-mail: it has none of the usual headers")
        subject = " ".join(str(message["Subject"] or "").split())
        body = _body(message).strip()
        attachments = [name for part in message.iter_attachments() if (name := part.get_filename())]
        sent = getattr(message["Date"], "datetime", None)
    above = "\n".join(f"{name}: {value}" for name, value in headers.items())
    metadata: dict[str, Any] = {name.lower(): value for name, value in headers.items()}
    metadata["author"] = metadata.pop("from", "")
    if sent is not None:
        metadata["date"] = sent
    if attachments:
        metadata["attachments"] = attachments
    return Loaded("email", f"{above}\n\n{body}".strip(), subject, plain(metadata))


def _body(message: EmailMessage) -> str:
    part = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes) or not payload.strip():
        return ""
    if part.get_content_type() != "text/html":
        return str(part.get_content()).replace("\r\n", "\n")
    shown = Shown()
    shown.read(decode_markup(payload))
    return shown.text()
