# %% [markdown]
# # Pool a Hugging Face model by hand
#
# A transformer returns one vector per token. To get one vector per text, many model cards show a function that
# averages over the tokens. This example shows what goes wrong if the average includes the pads, and how to pool
# without them.

# %%
import pandas
import torch
from transformers import AutoModel, AutoTokenizer

import maskpool
from maskpool.encoder import bundled_folder_of
from maskpool.weights import IDFWeights

folder = bundled_folder_of("all-MiniLM-L6-v2")  # or any name on the Hugging Face hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder).eval()

short = "Will it rain tomorrow?"
long = (
    "The forecast said sunshine, but the sky is black and I hear thunder, so I do not know whether I should take the "
    "train or ride my bicycle to work."
)


# %% [markdown]
# ## The mean over all positions
#
# In a batch, the short text is padded to the length of the long one. `output.last_hidden_state.mean(dim=1)` averages
# over the pads too, so the vector of a text depends on the other texts of its batch.


# %%
def naive(texts: list[str]) -> torch.Tensor:
    features = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**features)
    vectors: torch.Tensor = output.last_hidden_state.mean(dim=1)
    return vectors


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.cosine_similarity(a, b, dim=0).item()


alone, in_a_batch = naive([short])[0], naive([short, long])[0]
print(f"naive: cosine of the short text to itself in a batch {cosine(alone, in_a_batch):.2f}")
assert cosine(alone, in_a_batch) < 0.9


# %% [markdown]
# ## The mean over real tokens
#
# `maskpool.pool` takes the model's output and the attention mask. The vector stays the same up to rounding inside the
# model; the pooling itself adds no difference.


# %%
def pooled(texts: list[str], mode: str | tuple[str, ...] = "mean") -> torch.Tensor:
    features = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**features)
    return maskpool.pool(output, features["attention_mask"], mode)


alone, in_a_batch = pooled([short])[0], pooled([short, long])[0]
print(f"maskpool: cosine of the short text to itself in a batch {cosine(alone, in_a_batch):.2f}")
print("maskpool: the same vector:", torch.allclose(alone, in_a_batch, atol=1e-5))
assert torch.allclose(alone, in_a_batch, atol=1e-5)

# %% [markdown]
# ## Other poolings
#
# Every pooling has a mode string, and a tuple of modes concatenates several. `maskpool.nn` has each of them as a
# layer, and `maskpool.functional` as a function.

# %%
for mode in ("mean", "max", "cls", "lasttoken", ("mean", "max")):
    vectors = pooled([short, long], mode)
    print(mode, tuple(vectors.shape))

# %% [markdown]
# ## Token weights
#
# Weights change the share of each token in the mean. Here rare tokens count more: IDF weights are fitted on the token
# ids of a corpus. The weights of pads are ignored, and the denominator is the total weight of the real tokens.

# %%
corpus = pandas.read_csv("requests.csv")["text"].tolist()
idf = IDFWeights.fit(tokenizer(corpus)["input_ids"])
features = tokenizer([short, long], padding=True, return_tensors="pt")
weights = idf(features["input_ids"])
tokens = tokenizer.convert_ids_to_tokens(features["input_ids"][0])
for token, weight in zip(tokens[:7], weights[0].tolist(), strict=False):
    print(f"{token:10} {weight:.1f}")

with torch.no_grad():
    output = model(**features)
weighted = maskpool.pool(output, features["attention_mask"], "mean", token_weights=weights)
print(f"cosine of the weighted mean to the mean: {cosine(weighted[0], in_a_batch):.2f}")
