# %% [markdown]
# # Replace the pooling of a sentence-transformers model and train it
#
# `replace_pooling` puts a pooling of maskpool into a `SentenceTransformer`. The model then trains, saves, loads and
# encodes as before. This example replaces mean pooling by attention pooling, which learns how much each token counts.
# It starts equal to the mean, so training begins where the saved model is.

# %%
import tempfile
from pathlib import Path

import numpy as np
import pandas
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import BatchAllTripletLoss
from transformers import PrinterCallback

from maskpool.integrations.sentence_transformers import load, replace_pooling

torch.manual_seed(0)
data = pandas.read_csv("requests.csv").sample(frac=1, random_state=0)  # 108 texts with 6 labels, in random order
texts, labels = data["text"].tolist(), data["label"].astype("category").cat.codes.tolist()
train = Dataset.from_dict({"sentence": texts[:72], "label": labels[:72]})

original = load("all-MiniLM-L6-v2")
model = replace_pooling("all-MiniLM-L6-v2", "attention")
print("modules:", *(type(module).__name__ for module in model))
unchanged = np.allclose(original.encode(texts[:5]), model.encode(texts[:5]), atol=1e-5)
print("starts equal to the mean:", unchanged)
assert unchanged


# %% [markdown]
# ## Train
#
# Data, loss, trainer and arguments are the usual ones of sentence-transformers. The loss pulls texts of the same
# label together. Only the pooling learns here, because 72 texts are too few to train a transformer. To train it as
# well, leave out the loop over `model[0].parameters()`. The accuracy is measured on 36 other texts, so one text
# changes it by 0.03.


# %%
def nearest_neighbour_accuracy(model: SentenceTransformer) -> float:
    """Return the share of the other 36 texts whose nearest training text has the same label."""
    similarity = model.similarity(model.encode(texts[72:]), model.encode(texts[:72]))
    return float(np.mean(np.array(labels[:72])[similarity.argmax(dim=1)] == labels[72:]))


for parameter in model[0].parameters():  # the transformer
    parameter.requires_grad_(False)

before = nearest_neighbour_accuracy(model)
with tempfile.TemporaryDirectory() as folder:
    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder,
        max_steps=20,
        per_device_train_batch_size=72,
        learning_rate=2e-3,
        logging_steps=5,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    loss = BatchAllTripletLoss(model, margin=0.5)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=train, loss=loss)
    trainer.remove_callback(PrinterCallback)  # prints times, which differ between runs
    trainer.train()
print("loss:", *(f"{entry['loss']:.3f}" for entry in trainer.state.log_history if "loss" in entry))
print(f"accuracy of the nearest neighbour: {before:.2f} before, {nearest_neighbour_accuracy(model):.2f} after")

# %% [markdown]
# ## Save and load
#
# The folder has the format of sentence-transformers. maskpool's `load` opens it without `trust_remote_code`. For
# servers without maskpool, `as_host_pooling` puts the library's own class back, for the modes that the library has.

# %%
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(str(Path(folder) / "with-attention"))
    loaded = load(str(Path(folder) / "with-attention"))
same = np.allclose(loaded.encode(texts[:5]), model.encode(texts[:5]), atol=1e-6)
print("the loaded model gives the same vectors:", same)
assert same
