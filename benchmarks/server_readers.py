"""Run the readers that the table of servers calls "run", and compare their vectors with its verdicts.

Each reader runs in an environment with its packages, which ``READERS`` names: ``python -m benchmarks.server_readers
txtai ENVIRONMENT``, where ENVIRONMENT is a virtual environment, or the folder of ``npm install``. The models are saved
by sentence-transformers here (new files), and, with ``--old ENVIRONMENT``, by its version 5.3 there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskpool.config.reading import read_config
from maskpool.config.servers.checking import ServerReport, check_servers
from maskpool.config.servers.rows import Aspect, Verdict

TEXTS = (
    "w1 w2 w3 red1 w4",
    "w4",
    "blue2 blue3 w1 w7 w8 green1 w5",
    " ".join(f"w{number % 30}" for number in range(40)),
)
LENGTH = 24  # tokens, less than the last text has
MODES = ("cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "weightedmean")
WIDTH = 32
_TOLERANCE = 1e-5

# Saves the models: arguments are the folder of a plain model, a folder to write to, and the names of the modes.
SAVE = """
import sys, torch
plain, out, *modes = sys.argv[1:]
from sentence_transformers import SentenceTransformer
try: from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
except ImportError: from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
def save(name, *modules, **settings):
    model = SentenceTransformer(modules=[Transformer(plain), *modules], device="cpu", **settings)
    model.max_seq_length = LENGTH
    model.save(f"{out}/{name}")
for mode in modes:
    save(f"{mode}", Pooling(WIDTH, pooling_mode=mode))
    save(f"{mode}-unit", Pooling(WIDTH, pooling_mode=mode), Normalize())
prompts = {"prompts": {"query": "w1 w2 ", "document": ""}, "default_prompt_name": "query"}
save("mean-prompt", Pooling(WIDTH, pooling_mode="mean"), Normalize(), **prompts)
save("mean-prompt-excluded", Pooling(WIDTH, pooling_mode="mean", include_prompt=False), Normalize(), **prompts)
torch.manual_seed(0)
save("mean-dense", Pooling(WIDTH, pooling_mode="mean"), Dense(WIDTH, 5), Normalize())
""".replace("LENGTH", str(LENGTH)).replace("WIDTH", str(WIDTH))

# Reads folders and texts from standard input, and writes vectors, or a message in their place, to standard output.
_FRAME = """
import json, os, sys
given = json.load(sys.stdin)
texts, results = given["texts"], {}
sys.stdout, out = sys.stderr, sys.stdout
READ
for folder in given["folders"]:
    try: results[folder] = [[float(x) for x in row] for row in read(folder)]
    except Exception as error: results[folder] = f"{type(error).__name__}: {error}"[:1000]
json.dump(results, out)
"""


@dataclass(frozen=True)
class Reader:
    """Describe a reader.

    Attributes:
        server: The server that it runs, as `check_servers` names it.
        packages: What its environment needs.
        code: Defines ``read(folder)``.
        arguments: What the code passes, as keywords of `check_servers`.
        modes: The modes that the code passes on, or all.
    """

    server: str
    packages: str
    code: str
    modes: tuple[str, ...] = MODES
    arguments: tuple[str, ...] = ()


_CALLER = """
def caller(folder):
    name = os.path.basename(folder)
    return name.partition("-")[0], name.endswith(("-unit", "-prompt", "-excluded", "-dense"))
"""
READERS = {
    "sentence-transformers": Reader(
        "sentence-transformers",
        "sentence-transformers",
        "from sentence_transformers import SentenceTransformer\n"
        "def read(folder): return SentenceTransformer(folder, device='cpu').encode(texts)",
    ),
    "infinity": Reader(
        "infinity==0.0.78",
        "infinity-emb[torch]==0.0.78 transformers==4.49.0",
        "import asyncio\nfrom infinity_emb import AsyncEmbeddingEngine, EngineArgs\n"
        "async def embed(folder):\n"
        "    options = dict(device='cpu', engine='torch', bettertransformer=False, model_warmup=False)\n"
        "    engine = AsyncEmbeddingEngine.from_args(EngineArgs(model_name_or_path=folder, **options))\n"
        "    async with engine: return (await engine.embed(sentences=texts))[0]\n"
        "def read(folder): return asyncio.run(embed(folder))",
    ),
    "txtai": Reader(
        "txtai==9.14.0",
        "txtai==9.14.0",
        "from txtai.vectors import VectorsFactory\n"
        "def read(folder):\n"
        "    vectors = VectorsFactory.create({'path': folder, 'gpu': False}, None, None)\n"
        "    return [vectors.transform((None, text, None)) for text in texts]",
    ),
    "fastembed": Reader(
        "fastembed==0.9.1",
        "fastembed==0.9.1",
        _CALLER + "from fastembed import TextEmbedding\n"
        "from fastembed.common.model_description import ModelSource, PoolingType\n"
        "names = {'cls': PoolingType.CLS, 'mean': PoolingType.MEAN, 'lasttoken': PoolingType.LAST_TOKEN}\n"
        "def read(folder):\n"
        "    mode, unit = caller(folder)\n"
        "    TextEmbedding.add_custom_model(folder, pooling=names[mode], normalization=unit,\n"
        f"        sources=ModelSource(hf='none/none'), dim={WIDTH}, model_file='onnx/model.onnx')\n"
        "    return list(TextEmbedding(folder, specific_model_path=folder).embed(texts))",
        modes=("cls", "mean", "lasttoken"),
        arguments=("pooling", "normalize"),
    ),
}
_JAVASCRIPT = """
import { env, pipeline } from '@huggingface/transformers';
import fs from 'fs';
env.allowRemoteModels = false; env.localModelPath = '/';
const given = JSON.parse(fs.readFileSync(0)), results = {};
const names = { cls: 'cls', mean: 'mean', lasttoken: 'last_token' };
for (const folder of given.folders) {
  const name = folder.split('/').pop(), options = { pooling: names[name.split('-')[0]], normalize: name.includes('-') };
  try {
    const extractor = await pipeline('feature-extraction', folder, { dtype: 'fp32' });
    results[folder] = (await extractor(given.texts, options)).tolist();
  } catch (error) { results[folder] = String(error).slice(0, 200); }
}
fs.writeSync(1, JSON.stringify(results));
"""
READERS["transformers.js"] = Reader(
    "transformers.js==4.3.2",
    "npm install @huggingface/transformers@4.3.2",
    _JAVASCRIPT,
    modes=("cls", "mean", "lasttoken"),
    arguments=("pooling", "normalize"),
)


def program_in(environment: Path, name: str) -> list[str]:
    """Return the interpreter of a reader's environment, with the arguments before the code."""
    if name == "transformers.js":  # modules are found from the working folder
        return ["env", f"--chdir={environment}", "node", "--input-type=module", "-e"]
    return [str(environment / "bin" / "python"), "-c"]


def run(reader: Reader, program: Sequence[str], folders: Sequence[Path], texts: Sequence[str]) -> dict[str, Any]:
    """Return the vectors of each folder by a reader, or the message of its error.

    Args:
        reader: The reader.
        program: The interpreter, and arguments before the code.
        folders: The folders of models.
        texts: The texts.
    """
    code = reader.code if reader.code is _JAVASCRIPT else _FRAME.replace("READ", reader.code)
    given = json.dumps({"folders": [str(folder) for folder in folders], "texts": list(texts)})
    ran = subprocess.run([*program, code], input=given, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(ran.stderr[-2000:])
    results: dict[str, Any] = json.loads(ran.stdout)
    return results


def compare(vectors: Any, expected: np.ndarray) -> Verdict:  # Any: vectors, or a message
    """Return whether vectors are the same, different, or missing because the model was not loaded."""
    if isinstance(vectors, str):
        return Verdict.FAILS
    values = np.array(vectors)
    same = values.shape == expected.shape and float(np.abs(values - expected).max()) < _TOLERANCE
    return Verdict.SAME if same else Verdict.DIFFERENT


def disagreements(
    reader: Reader, program: Sequence[str], folders: Sequence[Path], version: str = ""
) -> Iterator[tuple[str, Verdict, ServerReport]]:
    """Yield each model and set of texts whose vectors contradict the verdict of the table.

    "Set by the caller" agrees with every outcome but a failure to load.
    """
    folders = [folder for folder in folders if folder.name.partition("-")[0] in reader.modes]
    texts = {"all texts": TEXTS, "short texts": TEXTS[:-1]}
    for words, chosen in texts.items():
        without = [Aspect.LENGTH] if words == "short texts" else []
        expected = run(READERS["sentence-transformers"], [sys.executable, "-c"], folders, chosen)
        results = run(reader, program, folders, chosen)
        for folder in folders:
            given: dict[str, Any] = {"pooling": folder.name.partition("-")[0], "normalize": "-" in folder.name}
            arguments = {name: given[name] for name in reader.arguments}
            name = f"{reader.server}=={version}" if version else reader.server
            (report,) = check_servers(read_config(folder), [name], **arguments)
            outcome = compare(results[str(folder)], np.array(expected[str(folder)]))
            # Where short texts are pooled wrong, the table must say so of something else than their length.
            stated = max(
                (item.verdict for item in report.versions[-1].judgements if item.aspect not in without),
                key=lambda verdict: verdict.rank,
            )
            agrees = stated is outcome or (stated is Verdict.CALLER and outcome is not Verdict.FAILS)
            if not agrees:
                yield f"{folder.parent.name}/{folder.name}, {words}: {results[str(folder)]}"[:200], outcome, report


def save(folder: Path, plain: Path, modes: Sequence[str], python: str = sys.executable) -> list[Path]:
    """Save models by the sentence-transformers of an interpreter, and return their folders."""
    subprocess.run([python, "-c", SAVE, str(plain), str(folder), *modes], check=True, capture_output=True)
    return sorted(folder.iterdir())


def add_onnx(folders: Sequence[Path], plain: Path) -> None:
    """Add the plain model, whose output is token states, as ONNX to each folder."""
    import torch
    from transformers import BertModel

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = BertModel.from_pretrained(plain, attn_implementation="eager").eval()  # type: ignore[no-untyped-call]  # untyped

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.model(input_ids, attention_mask, kinds).last_hidden_state
            return states

    ids = torch.ones(2, 7, dtype=torch.long)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "tokens"} for name in [*names, "last_hidden_state"]}
    options: dict[str, Any] = {"input_names": names, "output_names": ["last_hidden_state"], "dynamic_axes": axes}
    for folder in folders:
        (folder / "onnx").mkdir()
        target = str(folder / "onnx" / "model.onnx")
        torch.onnx.export(States(), (ids, ids, ids * 0), target, dynamo=False, **options)


def save_for(reader: Reader, place: Path, old: Path | None = None) -> list[Path]:
    """Save models for a reader and return their folders.

    Args:
        reader: The reader.
        place: Where to.
        old: An environment with sentence-transformers 5.3, which saves the same models with its files.
    """
    from tests.bench import tiny

    plain = tiny.save_model(place / "plain")
    settings = json.loads((plain / "tokenizer_config.json").read_text("utf-8"))
    # A length that all readers know, and a class that old versions of transformers know.
    changed = settings | {"model_max_length": tiny.LIMIT, "tokenizer_class": "PreTrainedTokenizerFast"}
    (plain / "tokenizer_config.json").write_text(json.dumps(changed), "utf-8")
    folders = save(place / "new", plain, MODES)
    folders += save(place / "old", plain, MODES, str(old / "bin" / "python")) if old else []
    for folder in folders:
        path = folder / "tokenizer_config.json"
        path.write_text(path.read_text("utf-8").replace("TokenizersBackend", "PreTrainedTokenizerFast"), "utf-8")
    if "pooling" in reader.arguments:
        add_onnx(folders, plain)
    return folders


def main() -> None:
    """Save models, run a reader on them and print where the table is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "reader", choices=READERS, help="; ".join(f"{name}: {r.packages}" for name, r in READERS.items())
    )
    parser.add_argument("environment", type=Path, help="the folder of the reader's environment")
    parser.add_argument("--version", default="", help="the version, for sentence-transformers")
    parser.add_argument("--old", type=Path, help="an environment with sentence-transformers 5.3, to save old files")
    given = parser.parse_args()
    reader = READERS[given.reader]
    with tempfile.TemporaryDirectory() as place:
        folders = save_for(reader, Path(place), given.old)
        wrong = list(disagreements(reader, program_in(given.environment, given.reader), folders, given.version))
    print(f"{len(folders)} models, {len(wrong)} disagreements")
    for words, outcome, report in wrong:
        print(f"\n{words}\n  outcome {outcome.value}, and the table says\n{report}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
