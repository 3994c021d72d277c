"""Data files that are damaged at random: never a traceback, and never fewer rows without a word."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import zipfile
import zlib
from pathlib import Path

import pandas as pd
import pytest

from maskpool.bench.design.corpora import Corpus, read_file
from maskpool.errors import MaskpoolError
from tests.matrix import cut

WORDS = [
    "plain words",
    "commas, and more, commas",
    'a "quoted" word',
    "Größe naïve",
    "two\nlines",
    "semi;colons",
    "tab\there",
]
KINDS = ["csv", "tsv", "semicolons", "unquoted", "headless", "jsonl", "json", "nested", "parquet", "gz", "zip"]
DAMAGES = ["none", "flip", "flips", "cut", "quote", "quotes", "separator", "ends", "line", "encoding", "nul"]
CASES = [(kind, damage, seed) for seed in range(cut(1, 12)) for kind in KINDS for damage in DAMAGES]


def make(kind: str, rng: random.Random) -> tuple[str, bytes]:
    """Write rows whose texts begin with a number in angle brackets; return the file's name and content."""
    plain = kind in ("unquoted", "headless")
    rows = [
        (f"<{number:03}> {rng.choice(WORDS[:1] if plain else WORDS)} {rng.random()}", rng.choice("xyz"))
        for number in range(40)
    ]
    if kind in ("jsonl", "json", "nested"):
        records = [
            {"text": text, "label": label, "more": {"label": number}} for number, (text, label) in enumerate(rows)
        ]
        if kind == "jsonl":
            return "a.jsonl", "\n".join(map(json.dumps, records)).encode()
        return "a.json", json.dumps(
            records if kind == "json" else {"data": records}, indent=rng.choice([None, 1])
        ).encode()
    if kind == "parquet":
        content: bytes = pd.DataFrame(rows, columns=["text", "label"]).to_parquet()
        return "a.parquet", content
    out = io.StringIO(newline="")
    separator = {"tsv": "\t", "semicolons": ";"}.get(kind, ",")
    header = [] if kind == "headless" else [("text", "label")]
    csv.writer(out, delimiter=separator, lineterminator=rng.choice(["\n", "\r\n"])).writerows([*header, *rows])
    return (
        f"a.{'tsv' if kind == 'tsv' else 'csv'}{'.' + kind if kind in ('gz', 'zip') else ''}",
        out.getvalue().encode(),
    )


def damaged(content: bytes, damage: str, rng: random.Random) -> bytes:
    """Damage a file."""
    place = rng.randrange(len(content))
    if damage in ("flip", "flips"):
        flipped = bytearray(content)
        for _ in range(1 if damage == "flip" else 8):
            flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if damage == "cut":
        return content[:place]
    if damage in ("quote", "quotes"):
        for _ in range(1 if damage == "quote" else 2):
            # Where it does most harm: before or after a field.
            place = rng.choice([match.start() for match in re.finditer(rb"<\d|[,;\t][xyz]", content)] or [place])
            content = content[:place] + b'"' + content[place:]
        return content
    if damage == "separator":
        return content[:place] + rng.choice([b",", b";", b"\t"]) + content[place:]
    if damage == "ends":
        return re.sub(rb"\r?\n", lambda _: rng.choice([b"\n", b"\r\n", b"\r"]), content)
    if damage == "line":
        return content[:place] + b"\n" + content[place:]
    if damage == "encoding":
        return content.decode("utf-8", "replace").encode(rng.choice(["cp1252", "utf-16", "utf-16-le"]), "replace")
    return content[:place] + b"\0" + content[place:] if damage == "nul" else content


def packed(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(content)
    if not name.endswith(".zip"):
        return content
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", content)
    return out.getvalue()


def read(tmp_path: Path, name: str, content: bytes, headless: bool) -> Corpus | None:
    (tmp_path / name).write_bytes(content)
    columns = ("1", "2") if headless else ("text", "label")
    try:
        return read_file(tmp_path / name, *columns, header=not headless, drop_missing=True)
    except MaskpoolError:
        return None


@pytest.mark.parametrize(("kind", "damage", "seed"), CASES)
def test_damaged_files_lose_no_row_silently(tmp_path: Path, kind: str, damage: str, seed: int) -> None:
    """A damaged file is refused, or each row that is still in it is used or counted as left out."""
    rng = random.Random(zlib.crc32(f"{kind} {damage} {seed}".encode()))
    name, content = make(kind, rng)
    if kind in ("parquet", "gz", "zip") and damage in ("flip", "flips", "cut"):
        # The container is damaged, and no longer shows which rows are still there.
        written, corpus = 40, read(tmp_path, name, damaged(packed(name, content), damage, rng), kind == "headless")
        assert corpus is None or corpus.rows == written
        return
    if kind != "parquet":
        content = damaged(content, damage, rng)
    corpus = read(tmp_path, name, packed(name, content), kind == "headless")
    if damage == "none":
        assert corpus is not None
        assert (corpus.rows, len(corpus.texts)) == (40, 40)
    if corpus is None:
        return
    there = set(re.findall(rb"<\d{3}>", content.replace(b"\0", b""))) if kind != "parquet" else set()
    texts = "\n".join(corpus.texts + corpus.labels)  # a lost separator joins the two
    lost = {number for number in there if number.decode() not in texts}
    joined = sum(len(re.findall(r"<\d{3}>", text)) > 1 for text in corpus.texts)
    assert len(lost) <= sum(corpus.dropped.values())
    assert not joined
