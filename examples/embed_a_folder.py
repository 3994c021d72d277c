# %% [markdown]
# # Embed a folder of files, interrupt it, resume it, search it
#
# `maskpool embed` turns files of texts into Parquet parts of vectors. A part is complete or absent, so a run that was
# killed resumes with the parts that are missing. This example makes a folder of jsonl files from pairs of the requests
# in `requests.csv`; use your own files of csv, tsv, jsonl or parquet.

# %%
import csv
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import maskpool
from maskpool.embed import verify_embeddings
from maskpool.integrations.transformers import SentenceEmbedder

folder = tempfile.TemporaryDirectory()
inputs, out = Path(folder.name) / "texts", Path(folder.name) / "vectors"
inputs.mkdir()
with open("requests.csv", encoding="utf-8", newline="") as file:
    requests = [row["text"] for row in csv.DictReader(file)]
texts = [f"{first} {second}" for first, second in itertools.islice(itertools.permutations(requests, 2), 1_200)]
for start in range(0, len(texts), 200):
    rows = [{"id": f"request-{row}", "text": texts[row]} for row in range(start, start + 200)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (inputs / f"{start:05d}.jsonl").write_text(lines, encoding="utf-8")
print(len(texts), "texts in", len(list(inputs.iterdir())), "files")

# %% [markdown]
# ## Start a run and kill it
#
# On a command line it is `maskpool embed texts --out vectors --id-column id`. As soon as one part is written, the
# process is killed, as a machine that fails would do.

# %%
command = ["embed", str(inputs), "--out", str(out), "--id-column", "id", "--quiet"]
run = subprocess.Popen([sys.executable, "-m", "maskpool", *command])
while run.poll() is None and not list(out.glob("part-*.parquet")):
    time.sleep(0.01)
run.kill()
run.wait()
print(len(list(out.glob("part-*.parquet"))), "parts are finished")

# %% [markdown]
# ## Resume
#
# The same command resumes; so does the same call in Python, whose report says how many parts it wrote. Verification
# counts the rows of every part and compares the hash of each file.

# %%
report = maskpool.embed_corpus(inputs, out, id_column="id")
print(f"{report.new_parts} parts written, {report.parts} in all, {report.vectors} vectors, {report.pads:.1%} pads")
print("problems:", len(verify_embeddings(out).problems))

# %% [markdown]
# ## Search
#
# The vectors are read as one array, or part by part if they do not fit in memory. The model is saved with a
# normalization, so the inner product is the cosine.

# %%
embeddings = maskpool.read_embeddings(out).numpy()
assert embeddings.ids is not None  # the run had --id-column
(query,) = SentenceEmbedder("all-MiniLM-L6-v2").embed(["My luggage is lost"])
scores = embeddings.vectors @ query
for place in scores.argsort()[::-1][:3]:
    print(f"{scores[place]:.2f}  {embeddings.ids[place]}  {texts[embeddings.rows[place]]}")
