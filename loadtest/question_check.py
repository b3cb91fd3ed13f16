"""Check a file of questions against the documents: a misspelt source would be a recall of 0 that nobody deserves.

python -m loadtest.question_check QUESTIONS DOCUMENTS
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from loadtest.quality import contains, is_source
from loadtest.question_file import Question, read_questions
from serving.errors import ConfigurationError

_SHOWN = 60


def wrong(questions: Sequence[Question], folder: Path) -> Iterator[str]:
    """What is wrong, for people: sources that no file below the folder is, answers that stand in none of the sources.

    Answers can be looked up in files of text alone; other sources are taken to hold them.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for question in questions:
        for one in (question, *question.turns):
            shown = one.text if len(one.text) <= _SHOWN else f"{one.text[:_SHOWN]}…"
            found = [(source, _files(source, files)) for source in one.sources]
            yield from (f"{shown}: there is no {source}" for source, paths in found if not paths)
            texts = [_text(path) for _, paths in found for path in paths]
            if one.answers and texts and not any(text is None or contains(text, one.answers) for text in texts):
                yield f"{shown}: none of its answers stands in {', '.join(one.sources)}"


def main(
    questions: Annotated[Path, typer.Argument(help="JSON lines.")],
    documents: Annotated[Path, typer.Argument(help="The folder that was ingested.")],
) -> None:
    """Exit code 0: all sources and answers are there; 1: some are not; 2: the file cannot be read."""
    try:
        known = read_questions(questions)
    except ConfigurationError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from error
    problems = list(wrong(known, documents))
    for problem in problems:
        typer.echo(problem)
    sources, answers = sum(bool(one.sources) for one in known), sum(bool(one.answers) for one in known)
    typer.echo(f"{len(known)} questions, {sources} with sources, {answers} with answers; {len(problems)} problems")
    if problems:
        raise typer.Exit(1)


def _files(source: str, files: Sequence[Path]) -> list[Path]:
    return [path for path in files if is_source(source, {"uri": path.as_posix()})]


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        return None


if __name__ == "__main__":
    typer.run(main)
