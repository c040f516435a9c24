"""The journal in a PostgreSQL or MySQL database, which a team shares.

The connection that writes holds a lock of the server on the study. A driver that is cut off from the server has lost
the lock and can write no more; the lock of a killed driver ends with its connection.
"""

import hashlib
import os
import time
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from sqlalchemy import event, make_url, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from search.config.urls import DRIVERS, PASSWORD, check_database_url
from search.record.errors import StorageLost, describe_loss
from trainables.errors import InputError

LOCK_PATIENCE_S = 5.0
"""Seconds that a server may take to notice that the holder of a lock was killed."""
WRITER = {
    "postgresql": {"options": "-c tcp_keepalives_idle=60 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=6"},
    "mysql": {"init_command": "SET SESSION wait_timeout = 31536000"},
}
"""How a writer connects. PostgreSQL then releases a lock whose host has been silent for two minutes, not two hours.
MySQL then closes an idle connection, which holds the lock, after a year, not after 8 hours: an epoch may take long."""
READER = {
    "postgresql": {"options": "-c default_transaction_read_only=on"},
    "mysql": {"init_command": "SET SESSION TRANSACTION READ ONLY"},
}
"""How a reader connects; it cannot write."""


class _ClearText:
    """Replaces PyMySQL's authentication that sends the password in clear text."""

    def __init__(self, _connection: object) -> None:
        pass

    def authenticate(self, _packet: object) -> object:
        raise PermissionError("the server asks for the password in clear text, which is never sent")


AUTHENTICATION: dict[str, dict[str, Any]] = {
    "postgresql": {"require_auth": "!password"},
    "mysql": {"auth_plugin_map": dict.fromkeys(("mysql_clear_password", "dialog"), _ClearText)},
}
"""Forbids to send a password that the server reads in clear text."""


def open_database(url: str, arguments: dict[str, dict[str, str]], *, skip_table_creation: bool = False) -> RDBStorage:
    """Connect to a database.

    Args:
        url: URL of the database, without the password.
        arguments: WRITER or READER.
        skip_table_creation: Whether missing tables stay missing.

    Raises:
        InputError: If the database refuses the connection, or its client library is not installed.
    """
    check_database_url(url)
    known = make_url(url)
    full = known.set(drivername=DRIVERS[known.drivername], password=os.environ.get(PASSWORD))
    connection = arguments[known.drivername] | AUTHENTICATION[known.drivername]
    kwargs = {"poolclass": StaticPool, "connect_args": connection}  # one connection: the one that holds the lock
    where = f"{known.host or 'localhost'}/{known.database}"
    try:
        return Database(full.render_as_string(hide_password=False), kwargs, skip_table_creation=skip_table_creation)
    except ImportError:
        raise InputError(f"storage: {known.drivername} needs a library: pip install '.[database]'") from None
    except (SQLAlchemyError, StorageLost) as error:
        raise InputError(f"storage: cannot use the database {where}: {describe_loss(error)}") from None


def lock_study(storage: RDBStorage, study: str) -> None:
    """Lock a study for as long as the storage's connection lasts.

    Raises:
        InputError: If another connection holds the lock.
    """
    digest = hashlib.sha256(f"cifake-search {storage.engine.url.database} {study}".encode()).digest()
    is_postgresql = storage.engine.dialect.name == "postgresql"
    key = int.from_bytes(digest[:8], signed=True) if is_postgresql else digest.hex()[:60]
    query = text("SELECT pg_try_advisory_lock(:key)" if is_postgresql else "SELECT GET_LOCK(:key, 0)")
    deadline = time.monotonic() + LOCK_PATIENCE_S
    with storage.engine.connect() as connection:
        while not (is_mine := connection.execute(query, {"key": key}).scalar()) and time.monotonic() < deadline:
            time.sleep(0.1)
        connection.commit()
    event.listen(storage.engine, "do_connect", _refuse)  # Optuna would reconnect, without a lock
    if not is_mine:
        close_database(storage)
        raise InputError(f"the study {study} in the database is being searched: stop that search first, or wait for it")


def _refuse(*_: Any) -> None:
    raise StorageLost("the connection was cut, and with it the lock on the study was lost")


class Database(RDBStorage):
    """Accepts other choices or another scale of a parameter than in an earlier trial, as a journal file does.

    So a study whose space was changed can continue. Every trial is stored with its own distributions.
    """

    def _set_trial_param_without_commit(
        self,
        session: Any,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None = None,  # noqa: ARG002 Optuna's name
    ) -> None:
        super()._set_trial_param_without_commit(
            session, trial_id, param_name, param_value_internal, distribution, previous_distribution=distribution
        )


def close_database(storage: RDBStorage) -> None:
    """Close the connection, which releases the lock."""
    storage.remove_session()
    storage.engine.dispose()
