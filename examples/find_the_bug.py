# %% [markdown]
# # Find the padding bug of a pipeline
#
# `audit_padding` takes any function from a list of texts to vectors. It embeds texts alone, in batches, in other
# orders and at other padded lengths, and reports whether the vectors change, why, and how to fix it. No labels are
# needed.

# %%
import torch
from transformers import AutoModel, AutoTokenizer

from maskpool import assert_padding_invariant, audit_padding
from maskpool.encoder import bundled_folder_of
from maskpool.functional import mean_pool

folder = bundled_folder_of("all-MiniLM-L6-v2")  # or any name on the Hugging Face hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder).eval()


# %% [markdown]
# ## The given pipeline
#
# It looks right: it uses the attention mask, and divides by the number of tokens.


# %%
def embed(texts: list[str]) -> torch.Tensor:
    features = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = model(features["input_ids"])[0]
    mask = features["attention_mask"].unsqueeze(-1)
    vectors: torch.Tensor = (states * mask).sum(dim=1) / mask.sum(dim=1)
    return vectors


report = audit_padding(embed)
print(report)
assert report.verdict == "leaks"

# %% [markdown]
# ## Read the report
#
# The first line is the verdict: `clean`, `leaks` or `unknown`. Below it, the largest difference between a text alone
# and in a padded batch is compared with the noise of the pipeline without padding. Each finding names a cause, the
# evidence, texts that show it, and the fix. Here the mask reaches the pooling, but not the model, so the tokens
# attend to the pads.
#
# ## Fix it
#
# Pass the mask to the model. `mean_pool` replaces the two lines of mask arithmetic.


# %%
def fixed(texts: list[str]) -> torch.Tensor:
    features = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**features).last_hidden_state
    return mean_pool(states, features["attention_mask"])


report = audit_padding(fixed)
print(report)
assert report.verdict == "clean"

# %% [markdown]
# ## Keep it fixed
#
# In a test, `assert_padding_invariant` raises an `AssertionError` with the same report. In a workflow, `maskpool
# audit NAME_OR_PATH` ends with exit code 1 if it finds a leak, and with 3 if it could not decide.

# %%
assert_padding_invariant(fixed)
try:
    assert_padding_invariant(embed)
except AssertionError as error:
    print(str(error).splitlines()[0])
