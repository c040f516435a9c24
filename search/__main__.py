"""All commands: `python -m search COMMAND`, or `cifake-search COMMAND` if the project is installed."""

import importlib
import sys
from pathlib import Path

import typer

COMMANDS = {
    "run": ("search.run", "search, retrain the winners, test each once, write the report"),
    "evaluate": ("search.commands.evaluate", "retrain and test the winners of a study again, or with other choices"),
    "inspect": ("search.commands.inspect", "show the state of a study: budget, best trials, rungs, failures"),
    "ask": ("search.commands.ask", "enqueue a configuration while a search runs"),
    "stop": ("search.commands.stop", "end a running search, or one of its trials, in good order"),
    "dashboard": ("search.commands.dashboard", "show a study in the browser"),
    "sync": ("search.commands.sync", "upload the data of a study that Weights & Biases lacks"),
    "audit": ("search.commands.audit", "describe a data set: counts, bad files, copies, near-duplicates, colour"),
    "predict": ("search.commands.predict", "classify pictures with a trained model"),
    "export": ("search.commands.export", "write a trained model as ONNX"),
    "reproduce": ("search.commands.reproduce", "train stored models again and compare the results"),
}
"""Name -> module with its `main`, and purpose. A module is imported when its command is called."""


def main() -> None:
    """Run the command that the first argument names; without one, list them."""
    program = "python -m search" if Path(sys.argv[0]).name == "__main__.py" else Path(sys.argv[0]).name
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        lines = [f"  {known:<10} {purpose}" for known, (_, purpose) in COMMANDS.items()]
        typer.echo("\n".join([f"Usage: {program} COMMAND [--help] ...", "", *lines]))
        return
    if name not in COMMANDS:
        typer.echo(f"error: unknown command {name!r}; known: {', '.join(COMMANDS)}", err=True)
        raise SystemExit(2)
    app = typer.Typer(add_completion=False)
    app.command()(importlib.import_module(COMMANDS[name][0]).main)
    app(args=arguments, prog_name=f"{program} {name}")


if __name__ == "__main__":
    main()
