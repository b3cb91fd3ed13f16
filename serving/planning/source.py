"""A model's config.json: from a local folder, or from a model hub. The only user of `huggingface_hub`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving.errors import ConfigurationError

#: Seconds to wait for the hub's answer about one small file.
_PATIENCE_S = 10.0


class HubRefused(ConfigurationError):
    """The model hub does not give a model's config.json."""


def read_config(model: str) -> dict[str, Any]:
    """As `look_up`, for a command that takes a folder, too. Raises ConfigurationError that says so."""
    try:
        return look_up(model)
    except HubRefused as error:
        raise ConfigurationError(f"{error}. Or give a folder with the model's config.json: --model ./FOLDER") from error


def look_up(model: str, patience_s: float = _PATIENCE_S) -> dict[str, Any]:
    """`model`: a folder, a config.json, or an id such as `org/name`. Raises ConfigurationError (HubRefused).

    A hub is asked as the environment says (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, the cache).
    """
    path = Path(model).expanduser()
    if path.is_dir():
        path = path / "config.json"
    if path.is_file():
        return _parse(_read(path, model), model)
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ConfigurationError(
            f"{model}: there is no such folder with a config.json, and no model hub has such an id (`org/name`)"
        )
    return _parse(_fetch(model, patience_s), model)


def _read(path: Path, model: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{model}: {path} cannot be read: {error}") from error


def _parse(text: str, model: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"{model}: its config.json is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigurationError(f"{model}: its config.json is no JSON object")
    return config


def _fetch(model: str, patience_s: float) -> str:
    import httpx
    from huggingface_hub import get_token, hf_hub_url, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        kept = try_to_load_from_cache(model, "config.json")
        if isinstance(kept, str):
            return Path(kept).read_text()
        if is_offline_mode():
            raise HubRefused(f"{model}: HF_HUB_OFFLINE is set and it is not in the cache")
        token = get_token()
        headers = {"authorization": f"Bearer {token}"} if token else {}
        url = hf_hub_url(model, "config.json")
        reply = httpx.get(url, headers=headers, timeout=patience_s, follow_redirects=True)
    except (HFValidationError, httpx.InvalidURL) as error:
        raise ConfigurationError(f"{model}: {error}") from error
    except httpx.HTTPError as error:
        raise HubRefused(f"{model}: the model hub cannot be reached ({error})") from error
    if reply.status_code in (401, 403):
        raise HubRefused(
            f"{model}: the hub does not give it to everybody, or does not know it: look at the model's page, accept "
            f"its terms and set HF_TOKEN"
        )
    if reply.status_code == 404:
        raise HubRefused(f"{model}: the hub has no such model with a config.json")
    if reply.is_error:
        raise HubRefused(f"{model}: the model hub answered {reply.status_code}")
    return reply.text
