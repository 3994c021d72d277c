"""Training and serving models of sentence-transformers with a learned pooling of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Normalize, Transformer
from torch import Tensor

from maskpool.integrations.sentence_transformers import Pooling
from tests.bench import tiny
from tests.hosts import needs
from tests.matrix import cut

pytest.importorskip("accelerate", reason='needs pip install "sentence-transformers[train]"')
# The host's own: names that transformers will drop, and what accelerate says of a machine without a GPU.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.gradient_checkpointing. is deprecated:FutureWarning",
    "ignore:.*pin_memory.*:UserWarning",
    "ignore::FutureWarning:transformers",
)
STEPS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    """Texts with three words in common, among as many random words: a task for attention."""
    rng = np.random.default_rng(0)
    noise = tiny.VOCABULARY[len(tiny.SPECIAL) + len(tiny.COMMON) :]

    def text(words: list[str]) -> str:
        return " ".join(rng.permutation([*words, *rng.choice(noise, 3)]))

    shared = [rng.choice(tiny.COMMON, 3, replace=False).tolist() for _ in range(480)]
    return Dataset.from_dict({side: [text(words) for words in shared] for side in ("anchor", "positive")})


def _model(folder: str, dtype: torch.dtype = torch.float32) -> SentenceTransformer:
    torch.manual_seed(0)
    modules: Any = [
        Transformer(folder, model_kwargs={"dtype": dtype}),
        Pooling(32, "attention", num_heads=2),
        Normalize(),
    ]
    return SentenceTransformer(modules=modules, device="cpu")


def _query(model: SentenceTransformer) -> Tensor:
    module: Any = model[1]
    query: Tensor = module.pooling.query
    return query


def _train(
    model: SentenceTransformer,
    pairs: Dataset,
    out: Path,
    loss: Callable[[SentenceTransformer], Any] = MultipleNegativesRankingLoss,
    resume: str | None = None,
    **options: Any,
) -> list[float]:
    """The training losses, one every five steps."""
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(out),
        **{
            "max_steps": STEPS,
            "per_device_train_batch_size": 16,
            "learning_rate": 5e-3,
            "logging_steps": 5,
            "save_steps": STEPS // 2,
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **options,
        },
    )
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=pairs, loss=loss(model))
    trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _lowers(losses: list[float]) -> bool:
    return float(np.mean(losses[-2:])) < 0.9 * losses[0]


@pytest.mark.full  # trains twice; saved and loaded weights are tested by default
def test_training_checkpoints_and_resumes(folder: str, pairs: Dataset, tmp_path: Path) -> None:
    """Training lowers the loss and moves the query; resumed from a checkpoint it ends with the same weights."""
    whole = _model(folder)
    losses = _train(whole, pairs, tmp_path)
    assert _lowers(losses), losses
    assert _query(whole).abs().min() > 0
    resumed = _model(folder)
    rest = _train(resumed, pairs, tmp_path, resume=str(tmp_path / f"checkpoint-{STEPS // 2}"))
    assert rest[-2:] == losses[-2:]
    for (name, ours), theirs in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    opened = SentenceTransformer(str(tmp_path / f"checkpoint-{STEPS}"), trust_remote_code=True)
    assert torch.equal(_query(opened), _query(whole))


OPTIONS: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "bfloat16 weights": (torch.bfloat16, {}),
    "bfloat16 autocast": (torch.float32, {"bf16": True}),
    "gradient checkpointing": (torch.float32, {"gradient_checkpointing": True}),
    "GradCache": (torch.float32, {"loss": lambda model: CachedMultipleNegativesRankingLoss(model, mini_batch_size=5)}),
}


@pytest.mark.full  # trains in four ways
# Of the last two the short forms are below: their gradients are those of plain training.
@pytest.mark.parametrize(
    "name", [*[*OPTIONS][:2], *(pytest.param(name, marks=pytest.mark.full) for name in [*OPTIONS][2:])]
)
def test_training_in_other_ways(folder: str, pairs: Dataset, name: str, tmp_path: Path) -> None:
    """Training lowers the loss in bfloat16, under autocast, with gradient checkpointing and with GradCache."""
    dtype, options = OPTIONS[name]
    model = _model(folder, dtype)
    losses = _train(model, pairs, tmp_path, save_strategy="no", max_steps=cut(45, STEPS), **options)
    assert _lowers(losses), losses
    assert _query(model).dtype == dtype
    assert _query(model).any()


def _gradients(model: SentenceTransformer, loss: Any) -> list[Tensor]:
    texts = [text for text, _ in tiny.make_texts(24)]
    model.zero_grad()
    model.eval()  # without dropout two passes over the same text agree
    features: Any = [model.preprocess(texts[::2]), model.preprocess(texts[1::2])]
    loss(features, None).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def test_gradcache_gives_the_gradients(folder: str) -> None:
    """GradCache, which calls the module twice on the same features, gives the gradients of the plain loss."""
    model = _model(folder)
    torch.nn.init.normal_(_query(model))
    plain = _gradients(model, MultipleNegativesRankingLoss(model))
    cached = _gradients(model, CachedMultipleNegativesRankingLoss(model, mini_batch_size=5))
    assert len(plain) == len(cached) > 20
    for ours, theirs in zip(cached, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_gives_the_gradients(folder: str) -> None:
    """Gradient checkpointing gives the gradients of plain training."""
    model = _model(folder)
    torch.nn.init.normal_(_query(model))
    plain = _gradients(model, MultipleNegativesRankingLoss(model))
    model.gradient_checkpointing_enable()
    for ours, theirs in zip(_gradients(model, MultipleNegativesRankingLoss(model)), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------- encode's options

TEXTS = [text for text, _ in tiny.make_texts(20)]


@pytest.fixture(params=["attention", "mean"])
def model(request: pytest.FixtureRequest, folder: str) -> SentenceTransformer:
    pooling = Pooling(32, "attention") if request.param == "attention" else Pooling(32)
    modules: Any = [Transformer(folder), pooling]
    prompts = {"query": "w1 w2 "}
    return SentenceTransformer(modules=modules, device="cpu", prompts=prompts)


def test_options_of_encode(model: SentenceTransformer) -> None:
    """Encode's options do to our vectors what they say."""
    plain = model.encode(TEXTS)
    unit = model.encode(TEXTS, normalize_embeddings=True, convert_to_tensor=True)
    torch.testing.assert_close(unit, torch.nn.functional.normalize(torch.tensor(plain), dim=1))
    np.testing.assert_array_equal(model.encode(TEXTS, truncate_dim=5), plain[:, :5])
    prompted = model.encode([f"w1 w2 {text}" for text in TEXTS])
    np.testing.assert_allclose(model.encode(TEXTS, prompt_name="query"), prompted, atol=1e-6)
    listed = model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(listed, list)
    assert torch.equal(torch.stack(listed), torch.tensor(plain))
    assert model.encode(TEXTS, precision="int8").dtype == np.int8


@needs("sentence-transformers", "6.2", "older hosts raise IndexError on more than four texts")
def test_all_outputs_of_encode(model: SentenceTransformer) -> None:
    """With output_value=None each text has its features, and the vector among them is encode's."""
    outputs: Any = model.encode(TEXTS, output_value=None)
    assert [set(output) for output in outputs] == [set(outputs[0])] * len(TEXTS)
    assert {"input_ids", "attention_mask", "token_embeddings", "sentence_embedding"} <= set(outputs[0])
    embeddings = torch.stack([output["sentence_embedding"] for output in outputs]).numpy()
    np.testing.assert_array_equal(embeddings, model.encode(TEXTS))


def test_token_states_of_encode(model: SentenceTransformer) -> None:
    """With output_value="token_embeddings" each text has the states of its real tokens."""
    states: Any = model.encode(TEXTS, output_value="token_embeddings")
    assert [len(state) for state in states] == [len(text.split()) + 2 for text in TEXTS]


def test_one_text_and_none(model: SentenceTransformer) -> None:
    """One bare text gives one vector, and no texts give none, as with the host's pooling."""
    np.testing.assert_allclose(model.encode(TEXTS[0]), model.encode(TEXTS)[0], atol=1e-6)
    assert model.encode([]).size == 0


@pytest.mark.full  # test_opened_in_a_fresh_process of test_st_models.py is its short form
def test_several_processes(model: SentenceTransformer) -> None:
    """Encoding in two processes gives the vectors of one."""
    embeddings = model.encode(TEXTS, device=["cpu", "cpu"], chunk_size=10)
    np.testing.assert_allclose(embeddings, model.encode(TEXTS), atol=1e-6)
