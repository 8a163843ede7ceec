"""The options of commands that serve: the address that they listen at, and the token that requests must send."""

from __future__ import annotations

import argparse
import os
import socket
from importlib.util import find_spec
from pathlib import Path

from refseg.errors import ConfigError, InputError

__all__ = ["add_address", "announced", "check_server", "server_token"]

TOKEN = "REFSEG_TOKEN"  # noqa: S105  # the name of a variable


def add_address(parser: argparse.ArgumentParser) -> None:
    """Declare `--host`, `--port` and `--token-file`."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen at; 0.0.0.0 for any (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8000, help="the port; 0 for any that is free (default: 8000)")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"with the token that requests must send; or the environment variable {TOKEN} (default: none)",
    )


def check_server() -> None:
    """Check that the libraries of the server are installed.

    Raises:
        ConfigError: one is not.
    """
    if missing := [name for name in ("fastapi", "uvicorn", "fastapi_offline") if find_spec(name) is None]:
        raise ConfigError(f"the server needs the library {missing[0]}: pip install 'refseg[serve]'")


def announced(listening: socket.socket) -> str:
    """Return the address of a server for a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def server_token(path: Path | None) -> str | None:
    """Return the token of a file, by default that of the environment; None: there is none.

    Raises:
        InputError: the file cannot be read.
        ConfigError: the token is empty.
    """
    token = os.environ.get(TOKEN)
    if path is not None:
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if token == "":
        raise ConfigError("the token is empty; write one, such as the output of: openssl rand -hex 32")
    return token
