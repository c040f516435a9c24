"""Shows a study in the browser, during a search or afterwards, with optuna-dashboard.

python -m search dashboard results/NAME [--port 8080] [--host 127.0.0.1] [--allow NAME ...]
"""

import csv
import io
import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Annotated, Any, BinaryIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import typer
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard import wsgi  # type: ignore[attr-defined]  # imported there, not exported for type checkers

from search.commands.terminal import explain_errors
from search.config.printable import defuse
from search.config.untrusted import read_file
from search.config.urls import is_url
from search.record.reading import load_study
from search.record.storage import read_storage
from trainables.errors import InputError

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
LOCAL = ("127.0.0.1", "localhost", "[::1]")
"""Host names that a browser on this machine uses."""
ARTIFACT_BYTES = 64 * 2**20
"""Most bytes of a picture."""
POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "style-src 'self' data: 'unsafe-inline'",
        "script-src 'self' 'unsafe-eval'",  # WebGL's code, which Plotly compiles
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""The page may load nothing from other hosts and no script except optuna-dashboard's."""
SANDBOX = "default-src 'none'; sandbox"
"""An artifact may load nothing."""


def main(
    place: Annotated[str, typer.Argument(metavar="results/NAME", help="The study's folder.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on; there is no password.")] = "127.0.0.1",
    names: Annotated[
        list[str] | None, typer.Option("--allow", metavar="NAME", help="Answer to this host name too; may be repeated.")
    ] = None,
) -> None:
    """Serve optuna-dashboard for a study until Ctrl-C. It reads the journal and changes nothing."""
    logging.getLogger("optuna_dashboard").setLevel(logging.WARNING)
    with explain_errors():
        if is_url(place):
            raise InputError(
                f"{place} is in an object store, which optuna-dashboard cannot read: use python -m search inspect, "
                "with --table for its trials"
            )
        directory = Path(place)
        config, _ = load_study(directory)
        storage = read_storage(config.journal)
        application = wsgi(storage, artifact_store=Artifacts(directory / "artifacts"))
        application = answer_to({*LOCAL, host, *(names or ())}, protect(defuse_tables(refuse_changes(application))))
        try:
            server = make_server(host, port, application, server_class=_Server, handler_class=_Quiet)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"cannot listen on {host}:{port} ({reason}): choose another --port or --host") from None
    with server:
        typer.echo(f"{config.name}: http://{host}:{server.server_port}/   (Ctrl-C ends)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def refuse_changes(application: Application) -> Application:
    """Answer requests that would change a study, such as its deletion, with 403."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "the study is shown for reading only"}']

    return guarded


def defuse_tables(application: Application) -> Application:
    """Let no cell of a CSV file that is downloaded be a formula."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith("/csv/"):
            return application(environ, start_response)
        started: list[tuple[str, list[tuple[str, str]]]] = []
        answer = b"".join(application(environ, lambda status, headers, *_: started.append((status, headers))))
        [(status, headers)] = started
        table = io.StringIO(newline="")
        csv.field_size_limit(2**31 - 1)
        rows = csv.reader(io.StringIO(answer.decode(errors="replace"), newline=""))
        csv.writer(table).writerows([defuse(cell) for cell in row] for row in rows)
        content = table.getvalue().encode()
        kept = [header for header in headers if header[0].title() != "Content-Length"]
        start_response(status, [*kept, ("Content-Length", str(len(content)))])
        return [content]

    return guarded


def answer_to(names: Collection[str], application: Application) -> Application:
    """Answer requests for these host names only, against DNS rebinding."""
    known = {name.lower().strip("[]") for name in names}

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        asked = environ.get("HTTP_HOST", "").lower()
        if _strip_port(asked) in known:
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"This dashboard does not answer to that host name. Start it with --allow NAME."]

    return guarded


def protect(application: Application) -> Application:
    """Add a content security policy to each answer; serve artifacts as downloads."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        is_artifact = environ["PATH_INFO"].startswith("/artifacts/")
        added = {"Content-Security-Policy": SANDBOX if is_artifact else POLICY, "X-Content-Type-Options": "nosniff"}
        if is_artifact:
            added["Content-Disposition"] = "attachment"

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            kept = [header for header in headers if header[0].title() not in added]
            return start_response(status, [*kept, *added.items()], *more)

        return application(environ, start)

    return guarded


class Artifacts(FileSystemArtifactStore):
    """A study's artifact store for reading; links are not followed."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Return the content of an artifact."""
        try:
            return io.BytesIO(read_file(self._get_filepath(artifact_id), ARTIFACT_BYTES))
        except (InputError, OSError):
            raise ArtifactNotFound("not found") from None


def _strip_port(host: str) -> str:
    """Return the name or address of an HTTP Host header."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


class _Server(ThreadingMixIn, WSGIServer):
    """A server that answers several requests at a time."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """A handler that logs no requests."""

    def log_message(self, format: str, *args: Any) -> None:
        pass
