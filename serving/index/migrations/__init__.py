"""The catalog's tables from version to version, by Alembic: each file in `versions` is one step."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, inspect

from serving.errors import ConfigurationError

#: What this version of the code reads and writes: the last of `versions`.
NEWEST = "0002"
#: The tables of the time before migrations.
_FIRST = "0001"


def upgrader() -> Callable[[Connection], None]:
    """`upgrade`, once Alembic is imported: only when there is something to do, it would slow every start down."""
    import alembic.command
    import alembic.runtime.migration
    import alembic.script  # noqa: F401

    return upgrade


def upgrade(connection: Connection) -> None:
    """Bring the database to `NEWEST`, in the transaction that the connection is in; its rows are kept.

    Raises ConfigurationError for a database of a newer version.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    # It would tell the terminal about every step.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config(attributes={"connection": connection})
    # The setting is read with interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    found = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise ConfigurationError(
            f"The catalog was migrated by a newer version of Anchorage: its tables are of version {found!r}, and this "
            f"one knows up to {NEWEST!r}. Use that version, or a catalog of this one's own."
        )
    if found is None and inspect(connection).has_table("collections"):
        command.stamp(config, _FIRST)
    command.upgrade(config, NEWEST)
