"""Serve models over HTTP: a page for the browser at `/`, and an interface for programs, described at `/docs`.

Only this machine can connect, unless --host says otherwise; a server that others can reach should have a token, and a
reverse proxy with TLS before it. A signal stops it after what was received is answered.
"""

from __future__ import annotations

import argparse
import os

from refseg.cli.address import add_address, announced, check_server, server_token
from refseg.cli.options import MODEL_HELP, add_device, add_refine, add_runtime
from refseg.errors import ConfigError
from refseg.predictor import BUNDLED
from refseg.serve.settings import Settings

__all__ = ["EXAMPLE", "add_arguments", "run"]

KEY = "LABEL_STUDIO_API_KEY"
EXAMPLE = "refseg serve --model photos --model shapes --port 8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help=f"{MODEL_HELP}; may be given several times, the first one is the default of requests (default: {BUNDLED})",
    )
    add_device(parser)
    add_runtime(parser)
    add_refine(parser)
    add_address(parser)
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, each with all models in memory (default: 1)"
    )
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="lets web pages of another server ask, such as https://example.org; may be given several times",
    )
    studio = parser.add_argument_group("Label Studio")
    studio.add_argument(
        "--label-studio",
        metavar="ADDRESS",
        help="pre-annotates the tasks of the Label Studio at this address, such as http://localhost:8080: its "
        f"backend is /label-studio, and the environment variable {KEY} has the access token with which it gives images",
    )
    studio.add_argument(
        "--image-host",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="lets tasks have images of another server, such as https://images.example.org; may be given several times",
    )
    limits = parser.add_argument_group("limits")
    for option, field, kind, text in (
        ("--max-bytes", "max_bytes", int, "of a request"),
        ("--max-pixels", "max_pixels", int, "of an image, width times height"),
        ("--max-expressions", "max_expressions", int, "of a request"),
        ("--max-length", "max_length", int, "of an expression, characters"),
        ("--queue", "queue", int, "requests at once"),
        ("--per-client", "per_client", int, "requests of one network address at once"),
        ("--batch", "batch", int, "images that are decoded and encoded together"),
        ("--seconds", "seconds", float, "for the upload of a request, and again for its answer"),
        ("--cache-bytes", "cache_bytes", int, "of encoded images that are kept, for each model"),
        ("--answer-bytes", "answer_bytes", int, "of answers that are kept, for each model"),
        ("--cache-seconds", "cache_seconds", float, "an encoded image or an answer is kept after its last use"),
    ):
        default = getattr(Settings, field)
        limits.add_argument(
            option, dest=field, type=kind, default=default, metavar="N", help=f"{text} (default: {default:g})"
        )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    if arguments.workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {arguments.workers}")
    limits = {name: getattr(arguments, name) for name in vars(arguments) if name in Settings.__dataclass_fields__}
    settings = Settings(
        **limits | {"models": tuple(arguments.model or [BUNDLED])},
        token=server_token(arguments.token_file),
        origins=tuple(arguments.cors),
        label_studio_key=os.environ.get(KEY),
        image_hosts=tuple(arguments.image_host),
    )
    check_server()
    from refseg.serve.run import listen, run

    listening = listen(arguments.host, arguments.port)
    print(announced(listening), flush=True)
    run(settings, listening, workers=arguments.workers)
    return 0
