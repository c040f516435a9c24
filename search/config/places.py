"""Where a study is stored, as the configuration names it: a folder, an object store, a database.

URLs are checked here without connecting to anything.
"""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from search.config.untrusted import check_options
from trainables.errors import InputError

MANIFEST, JOURNAL, LEASE = "study.yaml", "study.journal", "study.lock"
"""Files of a study's folder: what it was started with, its facts, and the right to write it."""
Place = Path | str
"""The journal's file, or the URL of a database."""
DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
"""SQLAlchemy's name of the library that we talk to each kind of server with; they are the extra `database`."""
PASSWORD = "CIFAKE_SEARCH_STORAGE_PASSWORD"
"""Environment variable of the database's password, which stands in no file."""


def is_url(place: str) -> bool:
    """Answer whether a place of results is an object store and not a folder."""
    return "://" in place


def check_store_url(url: str) -> None:
    """Check the URL of an object store without connecting.

    Raises:
        InputError: If it names no bucket.
    """
    parts = urlsplit(url)
    if not parts.scheme or not parts.netloc or parts.query or parts.fragment:
        raise InputError(f"results = {url!r}: expected a folder, or s3://BUCKET/PREFIX")
    if parts.username or parts.password:
        raise InputError("results: leave the credentials out of the URL and put them into the environment")


def check_database_url(url: str) -> None:
    """Check the URL of a database without connecting; no message repeats it, for it may hold a password.

    Raises:
        InputError: If it is not one, or holds a password.
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
