"""URLs of object stores and databases, checked without connecting."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from search.config.untrusted import check_options
from trainables.errors import InputError

JournalLocation = Path | str
"""The journal's file, or the URL of the database that holds it."""
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
"""Kind of database -> SQLAlchemy's name of the library that connects to it; the extra `database` installs both."""
PASSWORD = "CIFAKE_SEARCH_STORAGE_PASSWORD"
"""Environment variable of the database's password, which no file contains."""


def is_url(text: str) -> bool:
    """Return whether a text is a URL and not a path."""
    return "://" in text


def check_store_url(url: str) -> None:
    """Check the URL of an object store.

    Raises:
        InputError: If it names no bucket, or contains credentials.
    """
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc or parts.query or parts.fragment:
        raise InputError(f"results = {url!r}: expected a folder, or s3://BUCKET/PREFIX")
    if parts.username or parts.password:
        raise InputError("results: leave the credentials out of the URL and put them into the environment")


def check_database_url(url: str) -> None:
    """Check the URL of a database; no message repeats it, because it may contain a password.

    Raises:
        InputError: If it is malformed, or contains a password.
    """
    try:
        parts = urlsplit(url)
        is_known = parts.scheme in DRIVERS and bool(parts.path.strip("/"))
        has_password = parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError:
        is_known, has_password = False, False
    if has_password:
        raise InputError(f"storage: leave the password out of the URL and put it into the environment as {PASSWORD}")
    if not is_known:
        raise InputError("storage: expected postgresql://USER@HOST:PORT/DATABASE or mysql://USER@HOST:PORT/DATABASE")
    check_options(parts.scheme, parts.query)
