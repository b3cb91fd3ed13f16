"""What to try once a server runs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from serving.running import DEFAULT_DATA_DIR


def program() -> str:
    """How the reader calls us: by name where that finds us, else by path."""
    own = Path(sys.executable).with_name("anchorage")
    found = shutil.which("anchorage")
    if found and os.path.samefile(found, own):
        return "anchorage"
    return os.path.relpath(own) if own.is_relative_to(Path.cwd()) else str(own)


def data_dir_option(data_dir: Path) -> str:
    """` --data-dir D`, or nothing for the default one."""
    chosen = data_dir.expanduser().resolve()
    if chosen == DEFAULT_DATA_DIR.resolve():
        return ""
    return f" --data-dir {os.path.relpath(chosen) if chosen.is_relative_to(Path.cwd()) else chosen}"


def what_next(url: str, model: str, data_dir: Path, question: str, *, keyed: bool) -> str:
    """Commands to copy: ours, curl, the openai client, the browser."""
    option = data_dir_option(data_dir)
    header = ' -H "authorization: Bearer $ANCHORAGE_API_KEY"' if keyed else ""
    key = "YOUR_KEY" if keyed else "none"
    return f"""\
From another terminal:

  {program()} ask "{question}"{option}
  {program()} ingest FOLDER{option}

  curl -s {url}/v1/chat/completions -H 'content-type: application/json'{header} \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "{question}"}}]}}'

From Python, with the openai client:

  client = openai.OpenAI(base_url="{url}/v1", api_key="{key}")
  answer = client.chat.completions.create(
      model="{model}", messages=[{{"role": "user", "content": "{question}"}}]
  )

In a browser: {url}/docs

Ctrl-C stops everything."""
