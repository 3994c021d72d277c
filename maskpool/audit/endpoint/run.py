"""Audit an endpoint: probe it, compare it with a reference model, decide on a verdict."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal

from maskpool.audit.endpoint.clients import MAX_REQUESTS, EndpointClient, find_format
from maskpool.audit.endpoint.comparison import compare
from maskpool.audit.endpoint.probes import Probed, probe
from maskpool.audit.endpoint.recognition import ReferenceModel
from maskpool.audit.endpoint.report import EndpointReport
from maskpool.audit.endpoint.texts import DOCUMENTS, SentTexts
from maskpool.audit.evidence import ROUNDING
from maskpool.audit.run import check_audited_texts
from maskpool.errors import rename_arguments
from maskpool.leaks import NON_DETERMINISM

KEY = "MASKPOOL_API_KEY"  # the environment variable that holds the key
_MOST_AUDITED = 8  # each audited text takes about ten requests


def audit_endpoint(
    url: str,
    model: str | None = None,
    reference: str | None = None,
    texts: Sequence[str] | None = None,
    *,
    timeout: float = 60.0,
    on_call: Callable[[int], None] | None = None,
) -> EndpointReport:
    """Say whether a running server gives the vectors that it should.

    Each text is sent alone, in lists, in requests that arrive together, in base64 and as a string; texts of growing
    length show what is cut. With a reference model, the vectors say which pooling, layer, prompt, normalisation and
    maximum length the server really uses. A recipe is named only if it is nearer than any other by more than the noise.

    Without a reference, the verdict ``clean`` says that a text has the same vector in every form of request. With one,
    it also says that the vector is that of the reference.

    The key, if the server needs one, is read from the environment variable ``MASKPOOL_API_KEY``.

    Args:
        url: The address that embeds texts: ``…/v1/embeddings`` of OpenAI and many servers, ``…/embed`` of
            text-embeddings-inference, ``…/api/embed`` of Ollama, or ``…/v2/embed`` of Cohere.
        model: The name of the model, for servers with several.
        reference: The folder or hub name of the model that the server should run.
        texts: The texts to audit and compare with; None takes built-in ones. `describe_requests` lists every text that
            is sent.
        timeout: Seconds that a request may take.
        on_call: Called after each request with the number of requests so far.

    Raises:
        EndpointError: The server cannot be reached, refuses, or answers with something other than vectors.
        InvalidValueError: An argument or the key is not accepted, or the server gives NaN for a text alone.
        MaskpoolError: The reference cannot be loaded.

    See Also:
        `maskpool.audit_padding`: the audit of a pipeline in this process, which can look inside.

    Example::

        print(audit_endpoint("http://localhost:8080/v1/embeddings", "all-MiniLM-L6-v2", "all-MiniLM-L6-v2"))
    """
    find_format(url)
    sent, notes = _texts_to_send(texts, reference is not None)
    with rename_arguments({"name": "reference", "name_or_path": "reference"}):
        loaded = None if reference is None else ReferenceModel(reference)
    with rename_arguments({"key": f"the environment variable {KEY}"}):
        opened = EndpointClient(url, model, os.environ.get(KEY), timeout, sent.may_send, on_call)
    with opened as client:
        probed = probe(client, sent)
        measured = probed.measured
        why = _doubt(probed)
        if loaded is not None and measured is not None and not why:
            compare(client, probed, loaded)
    faults = any(finding.bug.label != "NOTE" for finding in probed.findings)
    verdict: Literal["clean", "faults", "unknown"] = "faults" if faults else "unknown" if why else "clean"
    notes = ([why] if why else []) + notes + _notes(client, probed, loaded is not None)
    return EndpointReport(
        url,
        client.form.name,
        model or "",
        reference or "",
        verdict,
        tuple(probed.findings),
        probed.facts,
        measured.padded[0].size if measured is not None else 0.0,
        measured.floor if measured is not None else 0.0,
        measured.threshold if measured is not None else 0.0,
        tuple(notes),
        client.requests,
    )


def describe_requests(texts: Sequence[str] | None = None, compared: bool = False) -> str:
    """List every text that `audit_endpoint` may send, and the largest number of requests.

    Args:
        texts: As in `audit_endpoint`.
        compared: Whether there is a reference.
    """
    sent, notes = _texts_to_send(texts, compared)
    return "\n".join(
        [f"at most {MAX_REQUESTS} requests, with no other texts than these:", str(sent), *(f"note: {n}" for n in notes)]
    )


def _texts_to_send(texts: Sequence[str] | None, compared: bool) -> tuple[SentTexts, list[str]]:
    if texts is None:
        return SentTexts(compare=compared), []
    audited, total = check_audited_texts(texts, _MOST_AUDITED)
    documents, _ = check_audited_texts(texts, len(DOCUMENTS))
    notes = []
    if total > len(audited):
        notes.append(f"batches were probed with a sample of {len(audited)} of {total} texts, drawn with seed 0")
    if compared and total > len(documents):
        notes.append(f"a sample of {len(documents)} of {total} texts was compared, drawn with seed 0")
    return SentTexts(tuple(audited), tuple(documents), compared), notes


def _doubt(probed: Probed) -> str:
    """Say why the run does not allow the verdict ``clean``; empty if it does."""
    measured = probed.measured
    if measured is None:
        return ""
    if measured.loud or any(finding.bug is NON_DETERMINISM for finding in probed.findings):
        return "equal requests have different vectors, so chance may hide a fault or look like one"
    if measured.vacuous:
        return "all texts have the same vector, so nothing can be said: pass other texts, or check the model"
    if measured.doubtful:
        return ROUNDING.format(measured.padded[0].size)
    return ""


def _notes(client: EndpointClient, probed: Probed, compared: bool) -> list[str]:
    notes = []
    if client.most_texts is not None:
        notes.append(f"the server refuses some lists: they were sent in parts of at most {client.most_texts} texts")
    if client.retries:
        notes.append(f"{client.retries} requests were sent again, because the server was busy or failed")
    if probed.measured is not None and not probed.measured.cache_checked:
        notes.append("whether answers come from a cache was not checked: no other spelling gives the same vector")
    if not compared:
        notes.append(
            "without a reference, another pooling, layer, prompt or normalisation cannot be seen, and some leaks have "
            "no name"
        )
    return notes
