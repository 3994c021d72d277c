"""Compare the vectors of a server with those of a reference model."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maskpool.audit.endpoint.clients import EndpointClient
from maskpool.audit.endpoint.probes import Probed
from maskpool.audit.endpoint.recognition import (
    RAW,
    TIMES_NUMBER,
    TIMES_ROOT,
    Recipe,
    Recognised,
    ReferenceModel,
    directions,
    farthest,
    recognise,
    scale_of,
)
from maskpool.audit.endpoint.texts import LONGEST, crossed, pool_words
from maskpool.audit.probes import difference
from maskpool.audit.report import Finding
from maskpool.errors import EndpointError
from maskpool.leaks import (
    CHUNKS_AVERAGED,
    LOWER_CASED,
    OTHER_LAYER,
    OTHER_LENGTH,
    OTHER_NORMALISATION,
    OTHER_POOLING,
    OTHER_PROMPT,
    OTHER_SPECIAL_TOKENS,
    OTHER_VECTORS,
    PADDING_BUGS,
    ROUNDED_NUMBERS,
    UNKNOWN_CAUSE,
)
from maskpool.tolerances import SAME_VECTOR, TIMES_FLOOR, VECTOR_CHANGE
from maskpool.types import Side

COMPARED = 8  # texts that are sent one by one
_AT_ONCE = 16  # texts of a request
_SAVED = Recipe("the pooling that is saved", 0)  # of a model whose pooling is none of the recipes
_NAMED_RECIPES = 3  # recipes of one class that a finding names


def compare(client: EndpointClient, probed: Probed, reference: ReferenceModel) -> None:
    """Add the differences of a server from the reference to what the probes saw.

    Raises:
        EndpointError: The vectors have another dimension.
    """
    texts = probed.sent.documents[:COMPARED]
    expected = reference(texts)
    rows = torch.cat([client([text]) for text in texts])
    if rows.shape != expected.shape:
        raise EndpointError(
            f"must give vectors of {expected.shape[1]} numbers, as the reference {reference.name!r} does, got "
            f"{rows.shape[1]}: they are different models",
            argument="url",
        )
    assert probed.measured is not None
    # Half a step of the grid in every number, the largest being so many times the root mean square.
    peak = float((rows.abs().amax(dim=1) / rows.norm(dim=1)).max()) * math.sqrt(rows.shape[1])
    rounding = probed.spacing * max(1.0, peak / 2 if "float" not in probed.facts["numbers"] else 1.0)
    noise = max(VECTOR_CHANGE, TIMES_FLOOR * probed.measured.floor, rounding)
    raw = dict(reference.candidates(texts))
    own = reference.recipe
    if own is None or own not in raw or farthest(expected, raw[own]) > VECTOR_CHANGE:
        own, raw = _SAVED, {_SAVED: expected, **raw}
    candidates = [(own, raw[own]), *(pair for pair in raw.items() if pair[0] != own)]
    recognised = recognise(rows, candidates, noise)
    cosines = torch.nn.functional.cosine_similarity(rows, expected)
    costs = _costs(client, probed, reference)
    probed.facts["cosine with the reference"] = f"{cosines.mean():.4f} on average, lowest {cosines.min():.4f}"
    probed.facts["recall@1"] = costs
    cosine = f"the cosine with the reference is {cosines.mean():.3f}, recall@1 {costs}"
    size = max(difference(a, b) for a, b in zip(rows, expected, strict=True))
    recipe = _name_directions(probed, recognised, own, farthest(rows, expected), noise, cosine, size)
    if recipe is None:
        return
    tokens = torch.tensor([len(ids) for ids in reference.encoder.tokenize(list(texts))[0]], dtype=torch.float64)
    served, wanted = (scale_of(vectors, raw[of], tokens, max(SAME_VECTOR, probed.spacing)) for vectors, of in (
        (rows, recipe), (expected, own)
    ))  # fmt: skip
    _name_padding(probed, reference, recipe, noise)
    _name_scale(probed, recipe, served, wanted, rows.norm(dim=1), expected.norm(dim=1))
    _name_maximum(client, probed, reference, recipe, own)


def _name_directions(
    probed: Probed, recognised: Recognised, own: Recipe, error: float, noise: float, cosine: str, size: float
) -> Recipe | None:
    """Add findings about the directions of vectors, and return the recipe that gives them; None if it is unknown."""
    if error <= noise or own in recognised.recipes:
        probed.facts["pooling"] = f"{own}, as the reference"
        if error > SAME_VECTOR or (error > VECTOR_CHANGE and probed.facts["numbers"] != "float32"):
            evidence = (
                f"vectors differ from the reference by up to {error:.1g}; the numbers are {probed.facts['numbers']}"
            )
            probed.add(ROUNDED_NUMBERS, f"{evidence}; {cosine}", size)
        return own
    if not recognised.recipes:
        probed.facts["pooling"] = "unknown"
        near = f"the nearest recipe is {recognised.error:.2g} away, the next {recognised.next_error:.2g}"
        probed.add(OTHER_VECTORS, f"no recipe of the reference gives these vectors ({near}); {cosine}", size)
        return None
    recipe, *equal = recognised.recipes
    others = " or ".join(map(str, equal[:_NAMED_RECIPES]))
    name = f"{recipe}{f', or equally {others}' if equal else ''}"
    probed.facts["pooling"] = name
    evidence = (
        f"the vectors are those of the reference by: {name} (largest difference {recognised.error:.1g}, the next "
        f"recipe {recognised.next_error:.2g}); the reference is saved with: {own}; {cosine}"
    )
    for differs, fault in (
        ((recipe.pooling, recipe.pads) != (own.pooling, own.pads), OTHER_POOLING),
        (own is not _SAVED and recipe.layer != own.layer, OTHER_LAYER),
        (recipe.prompt != own.prompt, OTHER_PROMPT),
        (recipe.lower != own.lower, LOWER_CASED),
        (recipe.special != own.special, OTHER_SPECIAL_TOKENS),
    ):
        if differs:
            probed.add(fault, evidence, size)
    return recipe


def _name_padding(probed: Probed, reference: ReferenceModel, recipe: Recipe, noise: float) -> None:
    """Replace the finding of an unknown cause by the bug whose formula gives the vector of a padded text."""
    place = next((n for n, finding in enumerate(probed.findings) if finding.bug is UNKNOWN_CAUSE), None)
    if place is None or probed.measured is None or recipe is _SAVED:
        return
    moved = next(text for text in probed.measured.padded if text.size > probed.threshold)
    texts = [recipe.prompt + (text.lower() if recipe.lower else text) for text in moved.batch]
    ids, _ = reference.encoder.tokenize(texts)
    width, length = max(map(len, ids)), len(ids[moved.place])
    sides: tuple[Side, ...] = ("right", "left")
    for side in sides:
        (states,) = reference.encoder.layers(ids, (recipe.layer,), side=side)
        real = torch.arange(width) < length if side == "right" else torch.arange(width) >= width - length
        for bug in PADDING_BUGS.values():
            for name, vector in ({} if bug.formula is None else bug.formula(states[moved.place].cpu(), real)).items():
                if difference(directions(vector.double()), directions(moved.batched)) <= noise:
                    evidence = (
                        f"the vector of the padded text is {name} of the reference ({length} real tokens in {width} "
                        f"columns); it moves by {moved.size:.2g}"
                    )
                    probed.findings[place] = Finding(bug, evidence, moved.size, moved.texts)
                    return


def _name_scale(probed: Probed, recipe: Recipe, served: str, wanted: str, lengths: Tensor, expected: Tensor) -> None:
    """Add findings about the lengths of vectors; int8 numbers have any."""
    if served == wanted or probed.facts["numbers"] == "int8":
        return
    means = {RAW: "mean", TIMES_ROOT: "mean_sqrt_len_tokens", TIMES_NUMBER: "sum"}
    if recipe.pooling == "mean" and {served, wanted} <= set(means):
        probed.facts["pooling"] = f"{means[served]}, as the lengths of vectors show"
        evidence = f"vectors have the lengths of {means[served]}, those of the reference of {means[wanted]}"
        probed.add(OTHER_POOLING, evidence, float((lengths / expected - 1).abs().max()))
        return
    evidence = (
        f"vectors have lengths from {lengths.min():.3g} to {lengths.max():.3g}, those of the reference from "
        f"{expected.min():.3g} to {expected.max():.3g}"
    )
    probed.add(OTHER_NORMALISATION, evidence, float((lengths / expected - 1).abs().max()))


def _name_maximum(
    client: EndpointClient, probed: Probed, reference: ReferenceModel, recipe: Recipe, own: Recipe
) -> None:
    """Add findings about what is done with long texts."""
    words = reference.words_read(pool_words("start", LONGEST), LONGEST, recipe.prompt)
    slack = reference.encoder.special_tokens if recipe.special != own.special else 0
    slack += 2 if probed.facts["numbers"] != "float32" else 0  # the last words may vanish in rounding
    if probed.chunks:
        chunks = _chunks_of(client, probed, reference)
        size = probed.facts["long texts"]
        probed.add(CHUNKS_AVERAGED, f"{size}{chunks}; the reference reads {words or 'all'} words of them", 1.0)
    elif probed.cut is not None and (words is None or abs(probed.cut - words) > slack):
        evidence = f"the server reads {probed.cut} words, the reference {words or f'more than {LONGEST}'}"
        probed.add(OTHER_LENGTH, evidence, 1.0)
    elif probed.cut is None and words is not None and probed.longest > words + slack:
        if not probed.stale:
            probed.add(OTHER_LENGTH, f"the server reads {probed.longest} words and more, the reference {words}", 1.0)
    elif words is None:
        probed.facts["maximum length"] = f"not compared: the reference reads more than {LONGEST} words"


def _chunks_of(client: EndpointClient, probed: Probed, reference: ReferenceModel) -> str:
    """Say whether vectors are the mean of normalised chunks as long as the reference reads."""
    text = crossed(probed.longest)[0]
    row = client([text])[0]
    for name, vector in reference.of_chunks(text):
        if difference(directions(row), directions(vector)) <= max(SAME_VECTOR, probed.spacing):
            return f"; the vector is {name}"
    return ""


def _costs(client: EndpointClient, probed: Probed, reference: ReferenceModel) -> str:
    """Say what the difference costs: each document is to be found by its query."""
    documents, queries = probed.sent.documents, probed.sent.queries
    own = [reference(texts) for texts in (documents, queries)]
    served = [
        torch.cat([client(texts[start : start + _AT_ONCE]) for start in range(0, len(texts), _AT_ONCE)])
        for texts in (documents, queries)
    ]
    return (
        f"{_recall(*served):.2f}, of the reference {_recall(*own):.2f}, and {_recall(own[0], served[1]):.2f} if the "
        f"server's queries search the reference's documents"
    )


def _recall(documents: Tensor, queries: Tensor) -> float:
    nearest = (directions(queries) @ directions(documents).T).argmax(dim=1)
    return float((nearest == torch.arange(len(queries))).double().mean())
