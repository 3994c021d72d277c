# %% [markdown]
# # Late chunking
#
# A search index stores one vector per chunk of a document. If each chunk is embedded alone, words like "it" or "the
# city" lose what they refer to. Late chunking (Günther et al. 2024) embeds the whole document once and pools the
# token states of each chunk, so every chunk has read its context. `TokenBatch.from_spans` makes the chunks without
# copying token states.

# %%
import torch
from transformers import AutoModel, AutoTokenizer

from maskpool import TokenBatch, pool
from maskpool.encoder import bundled_folder_of
from maskpool.functional import mean_pool

folder = bundled_folder_of("all-MiniLM-L6-v2")  # or any name on the Hugging Face hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder).eval()

chunks = [
    "Berlin is the capital and largest city of Germany.",
    "It has more than three million inhabitants.",
    "The city is also one of the states of the country.",
    "Its parks, forests, lakes and rivers cover about a third of its area.",
]
document = " ".join(chunks)

# %% [markdown]
# ## The token states of the whole document
#
# The tokenizer reports which characters each token covers. The characters of a chunk determine its first token and
# the token after its last one. The special tokens at both ends are not part of any chunk.

# %%
features = tokenizer(document, return_tensors="pt", return_offsets_mapping=True)
offsets = features.pop("offset_mapping")[0]
with torch.no_grad():
    states = model(**features).last_hidden_state[0]

ends_of_chunks = torch.tensor([len(" ".join(chunks[: number + 1])) for number in range(len(chunks))])
first_token, last_token = 1, len(offsets) - 1  # without [CLS] and [SEP]
ends = first_token + torch.searchsorted(offsets[first_token:last_token, 1].contiguous(), ends_of_chunks, right=True)
starts = torch.cat([torch.tensor([first_token]), ends[:-1]])
for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
    print(start, end, tokenizer.decode(features["input_ids"][0, start:end]))
assert ends[-1] == last_token

# %% [markdown]
# ## One vector per chunk
#
# Any pooling works: `mean_pool`, `max_pool`, or a trained layer of `maskpool.nn`.

# %%
late = mean_pool(TokenBatch.from_spans(states, starts, ends))

separate = tokenizer(chunks, padding=True, return_tensors="pt")
with torch.no_grad():
    output = model(**separate)
early = pool(output, separate["attention_mask"], "mean")
print(tuple(late.shape), tuple(early.shape))

# %% [markdown]
# ## What the context adds
#
# Only the first chunk names Berlin. Embedded alone, the others are far from the query; with late chunking they are
# nearer, because "it" and "the city" have read the first sentence.

# %%
query = tokenizer("Berlin", return_tensors="pt")
with torch.no_grad():
    vector = pool(model(**query), query["attention_mask"], "mean")
print("alone  late")
cosines = torch.stack([torch.cosine_similarity(vectors, vector) for vectors in (early, late)], dim=1)
for (alone, in_context), chunk in zip(cosines.tolist(), chunks, strict=True):
    print(f"{alone:5.2f} {in_context:5.2f}  {chunk}")
assert (cosines[1:, 1] > cosines[1:, 0]).all()
