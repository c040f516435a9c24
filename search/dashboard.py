"""The command line that shows a study in the browser, while it is searched or afterwards, by optuna-dashboard.

python -m search.dashboard results/NAME [--port 8080] [--host 127.0.0.1]
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import typer
from optuna.artifacts import FileSystemArtifactStore
from optuna_dashboard import wsgi  # type: ignore[attr-defined]  # which it imports, and exports to no type checker

from search.cluster.store import is_url
from search.command import explain_errors
from search.record import load_study
from search.storage import read_storage
from trainables.errors import InputError

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def main(
    place: Annotated[str, typer.Argument(metavar="results/NAME", help="The study's folder, or its URL in a store.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address to listen on; there is no password.")] = "127.0.0.1",
) -> None:
    """Serve optuna-dashboard on a study until Ctrl-C. It reads the record and can change nothing."""
    logging.getLogger("optuna_dashboard").setLevel(logging.WARNING)
    with explain_errors():
        if is_url(place):
            raise InputError(
                f"{place} lies in an object store, which optuna-dashboard cannot follow: use python -m search.inspect, "
                "with --table for its trials"
            )
        directory = Path(place)
        config, _ = load_study(directory)
        storage = read_storage(config.journal)
        application = refuse_changes(wsgi(storage, artifact_store=FileSystemArtifactStore(directory / "artifacts")))
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
    """Answer what would change a study, such as its deletion, with 403; the search alone writes its record."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/json")])
        return [b'{"reason": "the study is shown for reading only"}']

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    """A page asks for several things at a time."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """Says nothing of each request."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    typer.run(main)
