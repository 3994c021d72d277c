"""Parts of a study: one model on one corpus, with its comparisons, the run of its encoder and the keys of its cells."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import nn

from maskpool import __version__
from maskpool.bench.design.clusterers import CLUSTERERS
from maskpool.bench.design.corpora import FEWEST_TEXTS_A_LABEL, Corpus
from maskpool.bench.design.study import LEARNED, Study, is_saved
from maskpool.bench.design.subsamples import FULL, OTHER_SEEDS, Subsample, make_subsamples
from maskpool.bench.design.treatments import EXCLUDED, INCLUDED, MIXED, TREATMENTS, Positions
from maskpool.bench.encode.forward import Request, pair_keys
from maskpool.bench.encode.positions import RIGHT, Source
from maskpool.bench.score import heads
from maskpool.bench.score.fits import Comparison, Fit
from maskpool.bench.score.metrics import ami
from maskpool.bench.store.cells import content_hash
from maskpool.encoder import Encoder
from maskpool.errors import DataError, InvalidValueError
from maskpool.leaks import REMADE
from maskpool.plans import Ints, Plan

PACKAGES = ("torch", "transformers", "scikit-learn", "scipy", "numpy")
# A treatment that reads only pads scores only texts with pads; with fewer of them per cluster the score means nothing.
_FEWEST_TEXTS_A_CLUSTER = 2
_MOST_UNKNOWN = 0.5  # of a text's tokens
# AMI of the labels and the padded lengths above which the pads of a plan depend on the labels.
_CONFOUNDED = 0.02


@dataclass(frozen=True)
class Grid:
    """The comparisons of a part, derived from its study and a few facts about it.

    Attributes:
        study: The study.
        plans: The plans of the part, without the plans that are only for leaks.
        prefix: Whether the prefix property is proven.
        with_pads: Names of the plans under which enough texts have pads for treatments that read only pads.
    """

    study: Study
    plans: Sequence[Plan]
    prefix: bool
    with_pads: Sequence[str]

    def moves(self, plan: Plan) -> bool:
        """Return whether padding may move even the excluded treatment; such a plan is run for real."""
        return plan.side == "left" or not self.prefix

    @cached_property
    def poolings(self) -> tuple[str, ...]:
        """Modes that are not trained here, including those of the leaks, and heads that were trained elsewhere."""
        leaks = [REMADE[name].pooling for name in self.study.leaks]
        return tuple(mode for mode in dict.fromkeys([*self.study.poolings, *leaks]) if mode not in LEARNED)

    def tables(self) -> dict[tuple[int, str], list[Comparison]]:
        """Return the comparisons of each table by layer and clusterer; mixed plans share the table ``mixed``."""
        mixed = [treatment for treatment in self.study.treatments if treatment in MIXED]
        comparisons_of = {
            (layer, by): list(self._comparisons(layer, by))
            for layer in self.study.layers
            for by in self.study.clusterers
        }
        for layer in self.study.layers:
            for pooling in self.study.poolings if mixed else ():
                if pooling not in LEARNED:
                    comparisons_of.setdefault((layer, "mixed"), []).extend(
                        Comparison(layer, pooling, plan, INCLUDED, by) for plan in self.plans for by in mixed
                    )
        return {table: comparisons for table, comparisons in comparisons_of.items() if comparisons}

    def _comparisons(self, layer: int, by: str) -> Iterator[Comparison]:
        treatments = [treatment for treatment in self.study.treatments if treatment in TREATMENTS]
        leaks = {name: REMADE[name] for name in self.study.leaks}
        for_leaks = self.study.plans_for_leaks(self.plans)
        for pooling in self.poolings:
            for plan in (*self.plans, *for_leaks):
                requested = treatments if pooling in self.study.poolings and plan not in for_leaks else []
                named = {
                    leak.treatment: name
                    for name, leak in leaks.items()
                    if leak.pooling == pooling and leak.side == plan.side
                }
                first = [EXCLUDED] if self.moves(plan) and (requested or named) else []
                for treatment in dict.fromkeys([*first, *requested, *named]):
                    kind = TREATMENTS[treatment]
                    if kind.poolings and pooling not in kind.poolings:
                        continue
                    if kind.padded_texts_only and plan.name not in self.with_pads:
                        continue
                    yield Comparison(layer, pooling, plan, treatment, by, named.get(treatment))

    def comparisons(self) -> list[Comparison]:
        """Return the comparisons of every table."""
        return [comparison for table in self.tables().values() for comparison in table]

    def fits(self) -> list[Fit]:
        """Return the fit of each cell: the full data first, and each reference before the fits compared with it."""
        fits: dict[Fit, None] = {}
        for subsample in range(self.study.replicates + 1):
            for comparison in self.comparisons():
                for fit in (comparison.reference(subsample), comparison.fit(subsample)):
                    fits |= dict.fromkeys(fit.of_seeds(self.study.seeds))
        return list(fits)

    def references(self) -> list[Fit]:
        """Return the fits of texts alone for which floors are measured."""
        return list(dict.fromkeys(comparison.reference(FULL) for comparison in self.comparisons()))

    def moved(self) -> list[Comparison]:
        """Return one comparison for each set of vectors, because their shift does not depend on the clusterer."""
        by_vectors = {
            (comparison.layer, comparison.pooling, comparison.plan, comparison.treatment): comparison
            for comparison in self.comparisons()
        }
        return list(by_vectors.values())

    def batch_effects(self) -> list[tuple[int, str, Plan]]:
        """Return the layers, modes and random plans whose texts are batched a second time to measure batch effects."""
        return [
            (layer, pooling, plan)
            for layer in self.study.layers
            for pooling in self.study.poolings
            if pooling not in LEARNED
            for plan in self.plans
            if plan.order == "random" and plan.pad_to == "longest" and INCLUDED in self.study.treatments
        ]


@dataclass(frozen=True)
class Part:
    """One model on one corpus.

    Attributes:
        study: The study.
        corpus: The texts and labels.
        encoder: The model.
        ids: Token ids of each text.
        truncated: How many texts were cut off at the model's limit.
        plans: How texts are batched and padded.
    """

    study: Study
    corpus: Corpus
    encoder: Encoder
    ids: list[list[int]]
    truncated: int
    plans: tuple[Plan, ...]

    @classmethod
    def of(cls, study: Study, corpus: Corpus, encoder: Encoder) -> Part:
        """Tokenise the corpus and check that the plans can be run.

        Raises:
            DataError: A text has no token, or half of the texts are too few for a clusterer or have a single label.
            InvalidValueError: A plan's length does not fit, the model lacks a layer or does not read texts, or its
                tokenizer belongs to another model.
        """
        ids, truncated = encoder.tokenize(corpus.texts)
        blank = next((row for row, tokens in enumerate(ids) if len(tokens) <= encoder.special_tokens), None)
        if blank is not None:
            raise DataError(
                f"{corpus.name} must hold texts of at least one token; text {blank + 1} has none: "
                f"{corpus.texts[blank]!r}"
            )
        for by in study.clusterers:
            if len(ids) // 2 < CLUSTERERS[by].min_texts:
                raise DataError(
                    f"{corpus.name} must have at least {2 * CLUSTERERS[by].min_texts} texts, because {by} clusters "
                    f"halves of them, got {len(ids)}"
                )
        plans = study.plans_for(max(map(len, ids)), encoder.max_length, encoder.name)
        try:
            _check_ids(encoder, ids)
            encoder.layers(ids[:1], study.layers)
        except InvalidValueError as error:
            if error.argument != "layer":
                raise
            raise InvalidValueError("layers", f"{error.problem} for {encoder.name}") from error
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise InvalidValueError(
                "models",
                f"must need only texts; {encoder.name} could not be run on token ids and their mask: "
                f"{str(error).strip().splitlines()[0]}",
            ) from error
        # A folder that is not a head fails here and not after hours of encoding.
        heads.layers_of([pooling for pooling in study.poolings if is_saved(pooling)], encoder.dimension)
        part = cls(study, corpus, encoder, ids, truncated, plans)
        if any(len(np.unique(part.codes[subsample.texts])) < 2 for subsample in part.subsamples.values()):
            raise DataError(
                f"{corpus.name} must have at least two labels in each half of its texts, because halves are clustered "
                "too, but a random half has a single one: bring more texts of the other labels"
            )
        return part

    @property
    def all_plans(self) -> tuple[Plan, ...]:
        """The plans, including those that are only for leaks."""
        return (*self.plans, *self.study.plans_for_leaks(self.plans))

    @cached_property
    def lengths(self) -> Ints:
        """Real tokens of each text."""
        return np.array([len(tokens) for tokens in self.ids], dtype=np.int64)

    @cached_property
    def characters(self) -> Ints:
        """Characters of each text."""
        return np.array([len(text) for text in self.corpus.texts], dtype=np.int64)

    @cached_property
    def codes(self) -> Ints:
        """Labels as integers."""
        return self.corpus.codes

    @cached_property
    def subsamples(self) -> dict[int, Subsample]:
        """Every subsample, by number."""
        return make_subsamples(self.all_plans, self.lengths, self.characters, self.study)

    def batches(self, plan: Plan) -> list[tuple[Ints, int]]:
        """Return the texts of each batch of a plan over all texts, and the length to which they are padded."""
        return plan.batches(self.lengths, self.subsamples[FULL].rng(plan.name), self.characters)

    @cached_property
    def key(self) -> str:
        """Hash of everything that a cell depends on except its own key."""
        tokens = hashlib.sha256(repr(self.ids).encode()).hexdigest()
        return content_hash(
            {
                "model": self.encoder.identity(),
                "corpus": [self.corpus.name, self.corpus.sha256],
                "tokens": tokens,
                "dtype": self.study.dtype,
                "seed": self.study.seed,
                "versions": versions(),
            }
        )

    @cached_property
    def saved_heads(self) -> dict[str, str]:
        """Hashes of the poolings that are folders of trained heads, by folder."""
        return {folder: heads.saved_hash(folder) for folder in self.study.poolings if is_saved(folder)}

    @cached_property
    def kept(self) -> Ints:
        """The texts that heads are trained on and cluster."""
        if not self.study.learned:
            return np.zeros(0, dtype=np.int64)
        chosen = np.random.default_rng(self.study.seed).permutation(len(self.codes))[: heads.MOST_TEXTS]
        # A head holds out texts of each label, and a rare label would leave nothing to learn.
        labels, counts = np.unique(self.codes[chosen], return_counts=True)
        frequent = labels[counts >= FEWEST_TEXTS_A_LABEL]
        if len(frequent) < heads.FEWEST_LABELS:
            return np.zeros(0, dtype=np.int64)
        return np.sort(chosen[np.isin(self.codes[chosen], frequent)])

    @cached_property
    def top(self) -> int:
        """The longest padded length."""
        widths = [
            int(subsample.widths[plan.name].max()) for subsample in self.subsamples.values() for plan in self.all_plans
        ]
        return max(int(self.lengths.max()), *widths)

    def with_pads(self) -> list[str]:
        """Return the names of the plans under which, in every subsample, enough texts have pads to score only pads."""
        needed = [CLUSTERERS[by].min_texts for by in self.study.clusterers]
        fewest = max(_FEWEST_TEXTS_A_CLUSTER * len(np.unique(self.codes)), *needed)
        return [
            plan.name
            for plan in self.plans
            if all(
                len(padded) >= fewest and len(np.unique(self.codes[padded])) > 1
                for padded in (
                    subsample.texts[subsample.widths[plan.name] > self.lengths[subsample.texts]]
                    for subsample in self.subsamples.values()
                )
            )
        ]

    def request(self, grid: Grid) -> Request:
        """Return what the encoder must be run for."""
        position_sets: dict[Source, list[Positions]] = {RIGHT: ["real"]}
        padded: dict[Source, dict[str, None]] = {RIGHT: {}}
        for comparison in grid.comparisons():
            position_sets.setdefault(comparison.source, []).append(TREATMENTS[comparison.treatment].positions)
            padded.setdefault(comparison.source, {})[comparison.plan.name] = None
        # Computed once per plan, because there are many half-samples and even more comparisons.
        pairs: dict[Source, list[Ints]] = {
            source: [
                np.unique(
                    np.concatenate(
                        [pair_keys(subsample.texts, subsample.widths[plan]) for subsample in self.subsamples.values()]
                    )
                )
                for plan in plans
            ]
            for source, plans in padded.items()
        }
        if not grid.prefix:
            # The texts alone and the input of the heads are run for real as well.
            pairs[RIGHT] += [
                pair_keys(np.arange(len(self.ids)), self.lengths),
                pair_keys(self.kept, np.full_like(self.kept, self.top)),
            ]
        return Request(
            self.study.layers,
            heads.layers_of(grid.poolings, self.encoder.dimension),
            {source: np.unique(np.concatenate([np.zeros(0, np.int64), *keys])) for source, keys in pairs.items()},
            {source: tuple(dict.fromkeys(positions)) for source, positions in position_sets.items()},
            grid.prefix,
            self.top,
            self.kept,
            self.study.seed,
        )

    def about_corpus(self) -> dict[str, Any]:
        """Return what results say about the texts, including the rows of their source that are left out."""
        return {
            "name": self.corpus.name,
            "texts": len(self.ids),
            "rows": self.corpus.rows,
            "dropped": self.corpus.dropped,
            "notes": list(self.corpus.notes),
            "rare_labels": self.corpus.rare_labels,
            "labels": len(np.unique(self.codes)),
            "sha256": self.corpus.sha256,
            "versions": self.corpus.versions,
            "demonstration": self.corpus.demonstration,
            "longest": int(self.lengths.max()),
            "mean_length": float(self.lengths.mean()),
            "truncated": self.truncated,
        }

    def facts(self) -> dict[str, Any]:
        """Return what results say about the part apart from its measurements."""
        full = self.subsamples[FULL]
        label_width_ami = {plan.name: ami(self.codes, full.widths[plan.name]) for plan in self.all_plans}
        return {
            "model": self.encoder.identity(),
            "corpus": self.about_corpus(),
            "top": self.top,
            "plans": [
                {
                    "plan": asdict(plan),
                    "name": plan.name,
                    "for_leaks_alone": plan not in self.plans,
                    "happens": plan.happens,
                    "mean_width": float(full.widths[plan.name].mean()),
                    "tokens": int(full.widths[plan.name].sum()),
                    "pad_fraction": float(1 - self.lengths.sum() / full.widths[plan.name].sum()),
                    "label_width_ami": label_width_ami[plan.name],
                    "confounded": label_width_ami[plan.name] > _CONFOUNDED,
                }
                for plan in self.all_plans
            ],
            "with_pads": self.with_pads(),
            "saved_heads": self.saved_heads,
            "heads": bool(self.kept.size),
            "environment": environment(self.encoder),
        }


def _check_ids(encoder: Encoder, ids: Sequence[Sequence[int]]) -> None:
    """Refuse a tokenizer that does not belong to the model."""
    tokenizer = encoder.tokenizer
    all_ids = np.concatenate([np.array(tokens, dtype=np.int64) for tokens in ids])
    special_ids = [token for token in tokenizer.all_special_ids if token != tokenizer.unk_token_id]
    words = all_ids[~np.isin(all_ids, special_ids)]
    unknown = float(np.mean(words == tokenizer.unk_token_id)) if words.size else 0.0
    if unknown > _MOST_UNKNOWN:
        raise InvalidValueError(
            "models",
            f"must have a tokenizer that knows the texts; for the tokenizer of {encoder.name}, {unknown:.0%} of their "
            f"tokens are unknown ({tokenizer.unk_token}): check that the tokenizer's files are next to the model",
        )
    table = encoder.model.get_input_embeddings()
    largest = max(int(all_ids.max()), encoder.pad_token_id)
    if isinstance(table, nn.Embedding) and largest >= table.num_embeddings:
        raise InvalidValueError(
            "models",
            f"must have an embedding for each token; {encoder.name} has {table.num_embeddings}, but its tokenizer "
            f"gives the id {largest}: resize the embedding matrix, or use the tokenizer that the model was trained "
            "with",
        )


def versions() -> dict[str, str]:
    """Return the versions of the packages that the numbers depend on."""
    return {"maskpool": __version__} | {name: version(name) for name in PACKAGES}


def environment(encoder: Encoder) -> dict[str, Any]:
    """Return what a result depends on apart from its study."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(encoder.model.device),
        "dtype": str(encoder.model.dtype).removeprefix("torch."),
        "packages": versions(),
    }


def grid_of(study: Study, facts: Mapping[str, Any], prefix: bool) -> Grid:
    """Return the grid of a part from its facts, which one of its cells holds."""
    plans = [Plan(**plan["plan"]) for plan in facts["plans"] if not plan["for_leaks_alone"]]
    return Grid(study, plans, prefix, facts["with_pads"])


def key_of(study: Study, part: str, kind: str, **names: Any) -> dict[str, Any]:
    """Return the key of a cell: its kind, part and names, and the settings of the study that its value depends on.

    Fits, floors and shifts have their own keys, which depend on no other setting.

    Args:
        study: The study.
        part: Key of the part.
        kind: Kind of the cell.
        **names: What the cell is about, such as its plan.
    """
    seeds, layers = {"seeds": OTHER_SEEDS}, {"layers": list(study.layers)}
    # Neither the margin nor quotes change what is measured.
    measured = {name: item for name, item in study.as_json().items() if name != "margin"} | {"quote": False}
    whole = {"study": content_hash(measured)}
    settings: dict[str, dict[str, Any]] = {
        "facts": whole,
        "forward": whole,
        "proof": layers,
        "baselines": seeds,
        "batch_effect": seeds,
        "head": seeds,
        "quotes": {},
        "seconds": {},
    }
    return {"kind": kind, "part": part, **names, **settings[kind]}
