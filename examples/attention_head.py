# %% [markdown]
# # Train an attention head on cached token states
#
# A frozen encoder gives the same token states in every epoch. `cache_states` runs it once and stores the states of
# the real tokens in one file. The file is memory-mapped, so it may be larger than memory. A pooling head then trains
# in seconds.

# %%
import tempfile
from pathlib import Path

import numpy as np
import pandas

from maskpool.encoder import Encoder, cache_states, compute_states
from maskpool.integrations.sentence_transformers import load
from maskpool.integrations.sklearn import PoolingClassifier

folder = tempfile.TemporaryDirectory()
data = pandas.read_csv("requests.csv").sample(frac=1, random_state=0)  # 108 texts with 6 labels, in random order
texts, labels = data["text"].tolist(), data["label"].tolist()

encoder = Encoder.load("all-MiniLM-L6-v2")
train = cache_states(encoder, texts[:72], Path(folder.name) / "train.safetensors")
test = cache_states(encoder, texts[72:], Path(folder.name) / "test.safetensors")
print("texts, width of a token state:", train.shape)
print("lengths of the first texts:", train.lengths[:8].tolist())

# %% [markdown]
# ## Train
#
# `PoolingClassifier` is an estimator of scikit-learn: it learns the pooling and a linear classifier on its vectors,
# and works in grid searches and cross-validation. With `"mean"` only the classifier learns.

# %%
mean = PoolingClassifier("mean", random_state=0).fit(train, labels[:72])
classifier = PoolingClassifier("attention", random_state=0).fit(train, labels[:72])
print(f"accuracy on 36 other texts: mean {mean.score(test, labels[72:]):.2f}")
print(f"accuracy on 36 other texts: attention {classifier.score(test, labels[72:]):.2f}")
print("predictions:", *classifier.predict(["snow in the mountains", "put a song on", "a pie with apples"]))

# %% [markdown]
# ## What it attends to
#
# The layer returns the weight of each real token. The weights of a text add up to 1; before training they were all
# equal.

# %%
text = "Will the snow stay until Sunday, when we want to go skiing with the children?"
tokens = encoder.tokenizer(text).tokens()
_, weights = classifier.pooling_(compute_states(encoder, [text]).batch([0]), return_weights=True)
share = weights[:, 0]  # one row per real token, one column per head
start = 1 / len(tokens)
print(f"at the start: {start:.2f} each")
heavy = [f"{token} {weight:.2f}" for token, weight in zip(tokens, share.tolist(), strict=True) if weight > 1.5 * start]
print("more than 1.5 times as much after training:", ", ".join(heavy))
assert abs(share.sum().item() - 1) < 1e-5

# %% [markdown]
# ## Use it in sentence-transformers
#
# The trained pooling takes the place of the model's own. The folder holds no pickle, and maskpool's `load` opens it
# without `trust_remote_code`.

# %%
model = classifier.to_sentence_transformer(load("all-MiniLM-L6-v2"))
model.save_pretrained(str(Path(folder.name) / "with-head"))
vectors = load(str(Path(folder.name) / "with-head")).encode(texts[72:])
pooled = classifier.transform(test)
same = np.allclose(vectors, pooled / np.linalg.norm(pooled, axis=1, keepdims=True), atol=1e-3)
print("the model gives the vectors of the head, at length 1:", same)
assert same
folder.cleanup()
