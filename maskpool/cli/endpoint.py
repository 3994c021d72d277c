"""Run ``maskpool audit --endpoint``, which reports whether a running server gives the vectors that it should."""

from __future__ import annotations

import json
from collections.abc import Sequence

from maskpool.cli.endings import LEAK, SUCCESS, UNKNOWN, expected_errors, needs_extra
from maskpool.cli.screen import Screen
from maskpool.errors import rename_arguments

# The command's name for each argument of the functions that it calls.
OPTIONS = {
    "url": "--endpoint",
    "model": "--model",
    "reference": "--reference",
    "texts": "--texts",
    "timeout": "--timeout",
}


def audit_server(
    url: str,
    model: str | None,
    reference: str | None,
    texts: Sequence[str] | None,
    timeout: float,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Print the report of a server, or what would be sent to it, and return the exit code."""
    with rename_arguments(OPTIONS):
        with needs_extra():
            from maskpool.audit.endpoint import audit_endpoint, describe_requests
            from maskpool.audit.endpoint.clients import find_format
        if dry_run:
            find_format(url)
            print(describe_requests(texts, reference is not None))
            return SUCCESS
        screen = Screen(silent=as_json)
        with expected_errors(), screen.status(f"auditing {url}") as show:
            report = audit_endpoint(
                url,
                model,
                reference,
                texts,
                timeout=timeout,
                on_call=lambda requests: show(f"auditing {url}: {requests} requests"),
            )
    print(json.dumps(report.to_dict()) if as_json else report)
    return {"clean": SUCCESS, "faults": LEAK, "unknown": UNKNOWN}[report.verdict]
