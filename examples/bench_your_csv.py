# %% [markdown]
# # Measure what pads do to the clusters of your own texts
#
# `maskpool bench` clusters labelled texts from vectors with the pads excluded and included, and reports how far the
# clusters move from the labels. It needs a file with a column of texts and one of labels. `requests.csv` has 108
# short requests with 6 labels; replace its name and the names of the columns with yours.

# %%
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas

folder = tempfile.TemporaryDirectory()
out = Path(folder.name) / "results"
command = ["bench", "--data", "requests.csv", "--text-column", "text", "--label-column", "label"]
command += ["--model", "all-MiniLM-L6-v2", "--pooling", "mean"]

# %% [markdown]
# The same on a command line:
#
# ```bash
# maskpool bench --data requests.csv --text-column text --label-column label --pooling mean --out results
# ```
#
# With `--dry-run` the command says what it would compute and how long it would take. An interrupted run resumes where
# it stopped.

# %%
subprocess.run([sys.executable, "-m", "maskpool", *command, "--out", str(out), "--quiet"], check=True)
print(*sorted(path.name for path in out.iterdir()), sep="\n")

# %% [markdown]
# ## Read the report
#
# `report.html` and `report.md` hold the report, `results.csv` and `results.json` the numbers. The report begins with
# what to do and a verdict for each pooling.

# %%
part = json.loads((out / "results.json").read_text(encoding="utf-8"))["parts"][0]
print(part["advice"])
print(*part["headline"], *part["shift_headline"], sep="\n")

# %% [markdown]
# Two things are measured, and they can differ.
#
# - **Vectors**: *cosine shift* is 1 minus the cosine of a text's vector to the vector of the same text alone.
#   *Neighbours kept* compares each text's 10 nearest neighbours with pads and alone: those in both, divided by those
#   in either. Both affect a search index directly.
# - **Clusters**: *AMI* says how well k-means clusters agree with the labels: 1 is full agreement, 0 is chance. *ΔAMI*
#   is the AMI with pads minus the AMI without. Its interval accounts for other texts of the same kind, other batches
#   and other k-means seeds.
#
# The verdict is `lowered` or `raised` if the interval excludes zero, `no change` if it contains zero and stays within
# ±0.03, the margin, and `unknown` (could not tell) otherwise. 108 texts are few. The vectors clearly move, but
# clusters of so few texts also change with every seed, so the verdict says how many texts or seeds would settle the
# question.

# %%
table = pandas.read_csv(out / "results.csv")
rows = table[(table["by"] == "kmeans") & table["treatment"].isin(["excluded", "included"])]
columns = ["plan", "treatment", "ami", "delta", "low", "high", "verdict", "cosine_shift", "neighbours_kept"]
print(rows[columns].round(2).to_string(index=False))

# %% [markdown]
# ## The plans
#
# A plan says how texts are batched and padded. In *random batches of 32* a text is padded to the longest of 32 random
# texts, in *sorted batches of 32* to the longest of 32 texts of similar length, as `SentenceTransformer.encode` does,
# and in *padded to 128* always to 128 tokens. The more pads, the larger the shift.

# %%
shifts = rows[rows["treatment"] == "included"].set_index("plan")["cosine_shift"]
assert shifts["padded to 128"] > shifts["random batches of 32"] > shifts["sorted batches of 32"] > 0.01
print("The shift grows with the number of pads.")
folder.cleanup()
