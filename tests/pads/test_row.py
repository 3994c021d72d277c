"""`freeze_pad_row`: a pad row that training does not change, in a tied LSTM language model and a tied BERT."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_, parametrize
from torch.optim import SGD, Adam, AdamW, Optimizer, SparseAdam
from torch.optim import optimizer as torch_optimizers
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration, Trainer, TrainingArguments

from maskpool import freeze_pad_row
from maskpool.pads.row import input_embedding, tied_heads
from tests.bench import tiny
from tests.matrix import sampled

WORDS, DIM, PAD = 30, 16, 3
Loss = Callable[[Any, int], Tensor]  # of a model and the number of a batch


class LSTMLanguageModel(nn.Module):
    def __init__(self, tied: bool = True, sparse: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, DIM, padding_idx=PAD, sparse=sparse)
        self.lstm = nn.LSTM(DIM, DIM, batch_first=True)
        self.decoder = nn.Linear(DIM, WORDS)
        if tied:
            self.decoder.weight = self.words.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.lstm(self.words(input_ids))[0])
        return logits


def _lstm() -> nn.Module:
    torch.manual_seed(0)
    return _with_pad_row(LSTMLanguageModel())


def _bert() -> nn.Module:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict.fromkeys(("hidden_size", "intermediate_size"), DIM)
    sizes |= dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 2)
    return _with_pad_row(BertForMaskedLM(BertConfig(vocab_size=WORDS, pad_token_id=PAD, **sizes)))


def _with_pad_row(model: nn.Module) -> nn.Module:
    """Make the pad row nonzero, with one zero whose sign shows whether bits are kept."""
    with torch.no_grad():
        _row(model).copy_(torch.linspace(-1, 1, DIM)).select(0, 0).fill_(-0.0)
    return model


def _ids(batch: int) -> Tensor:
    """Return token ids without a pad."""
    return torch.randint(PAD + 1, WORDS, (4, 7), generator=torch.Generator().manual_seed(batch))


def _lstm_loss(model: Any, batch: int) -> Tensor:
    ids = _ids(batch)
    return cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def _bert_loss(model: Any, batch: int) -> Tensor:
    torch.manual_seed(batch)  # of dropout
    ids = _ids(batch)
    ids[0, 4:] = PAD
    mask = ids != PAD
    loss: Tensor = model(input_ids=ids, attention_mask=mask.long(), labels=ids.where(mask, -100)).loss
    return loss


MODELS: dict[str, tuple[Callable[[], nn.Module], Loss]] = {"LSTM": (_lstm, _lstm_loss), "BERT": (_bert, _bert_loss)}
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "SGD": lambda weights: SGD(weights, 0.1),
    "SGD, momentum and decay": lambda weights: SGD(weights, 0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda weights: Adam(weights, 0.01),
    "AdamW": lambda weights: AdamW(weights, 0.01, weight_decay=0.1),
    "fused AdamW": lambda weights: AdamW(weights, 0.01, weight_decay=0.1, fused=True),
    "foreach AdamW": lambda weights: AdamW(weights, 0.01, weight_decay=0.1, foreach=True),
}
every_model = pytest.mark.parametrize(("make", "loss"), MODELS.values(), ids=MODELS)
every_optimizer = pytest.mark.parametrize("optimize", OPTIMIZERS.values(), ids=OPTIMIZERS)


@pytest.fixture(autouse=True)
def _no_hook_is_left() -> Iterator[None]:
    """Check that a test leaves no global hook of optimizers."""
    before = _global_hooks()
    yield
    assert _global_hooks() == before


def _global_hooks() -> list[int]:
    return [*torch_optimizers._global_optimizer_pre_hooks, *torch_optimizers._global_optimizer_post_hooks]


def _row(model: nn.Module) -> Tensor:
    return input_embedding(model).weight.detach()[PAD]


def _same_bits(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == theirs.dtype and torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8))


def _train(model: nn.Module, loss: Loss, optimizer: Optimizer, steps: int = 3, accumulate: int = 2) -> None:
    for step in range(steps):
        for part in range(accumulate):
            loss(model, accumulate * step + part).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        optimizer.zero_grad()


def _moves(model: nn.Module, loss: Loss, optimizer: Optimizer, **options: Any) -> bool:
    """Return whether training moves the pad row, and assert that it moves the others."""
    before, others = _row(model).clone(), input_embedding(model).weight.detach().clone()
    _train(model, loss, optimizer, **options)
    moved = (input_embedding(model).weight.detach() != others).any(dim=1)
    moved[PAD] = True
    assert moved[PAD + 1 :].all()
    return not _same_bits(_row(model), before)


# -------------------------------------------------------------------------------------------------------- what stays


@every_model
@every_optimizer
def test_row_is_kept(
    make: Callable[[], nn.Module], loss: Loss, optimize: Callable[[Iterable[nn.Parameter]], Optimizer]
) -> None:
    """Training moves the pad row before and after freezing, and changes no bit of it in between."""
    plain, model = make(), make()
    assert _moves(plain, loss, optimize(plain.parameters()))
    handle = freeze_pad_row(model)
    optimizer = optimize(model.parameters())
    assert not _moves(model, loss, optimizer)
    handle.remove()
    assert _moves(model, loss, optimizer)


@every_model
@every_optimizer
def test_everything_else_takes_the_same_step(
    make: Callable[[], nn.Module], loss: Loss, optimize: Callable[[Iterable[nn.Parameter]], Optimizer]
) -> None:
    """All other rows and weights take the same step as without freezing, bit for bit."""
    plain, model = make(), make()
    _train(plain, loss, optimize(plain.parameters()), steps=1)
    with freeze_pad_row(model):
        _train(model, loss, optimize(model.parameters()), steps=1)
    others = [row for row in range(WORDS) if row != PAD]
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        tied = ours is input_embedding(model).weight
        assert _same_bits(ours[others] if tied else ours, theirs[others] if tied else theirs), name


@every_optimizer
def test_everything_else_trains_the_same(optimize: Callable[[Iterable[nn.Parameter]], Optimizer]) -> None:
    """If nothing reads the row (an untied head, no pads), the rest trains as without freezing, over many steps."""
    trained = []
    for frozen in (True, False):
        torch.manual_seed(0)
        model = LSTMLanguageModel(tied=False)
        handle = freeze_pad_row(model)
        if not frozen:
            handle.remove()
        _train(model, _lstm_loss, optimize(model.parameters()), steps=5)
        handle.remove()
        trained.append([weight.detach() for weight in model.parameters()])
    ours, theirs = trained
    for matrix in (ours[0], theirs[0]):
        matrix[PAD] = 0.0
    assert all(map(_same_bits, ours, theirs))


@every_model
def test_its_gradient_counts_in_no_norm(make: Callable[[], nn.Module], loss: Loss) -> None:
    """Clipping sees the norm of all other gradients, and does not change the row."""
    plain, model = make(), make()
    for part in range(2):
        loss(plain, part).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    gradient = input_embedding(plain).weight.grad
    assert gradient is not None
    assert gradient[PAD].norm() > 1e-3
    gradient[PAD] = 0.0
    expected = clip_grad_norm_(plain.parameters(), 0.01)
    with freeze_pad_row(model):
        optimizer = AdamW(model.parameters(), 0.01)
        for part in range(2):
            loss(model, part).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        assert torch.equal(clip_grad_norm_(model.parameters(), 0.01), expected)
        before = _row(model).clone()
        optimizer.step()
        assert _same_bits(_row(model), before)


@every_model
def test_momentum_from_before(make: Callable[[], nn.Module], loss: Loss) -> None:
    """A row frozen during training stays, despite earlier momentum and gradient."""
    model = make()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    _train(model, loss, optimizer)
    loss(model, 9).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    with freeze_pad_row(model):
        assert not _moves(model, loss, optimizer)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("LSTM", torch.bfloat16), ("BERT", torch.bfloat16), ("BERT", torch.float16)],  # no LSTM of halves on CPU
)
def test_amp(name: str, dtype: torch.dtype) -> None:
    """The row stays under torch.amp with a gradient scaler."""
    make, loss = MODELS[name]
    try:  # without anything of ours
        with torch.autocast("cpu", dtype):
            loss(make(), 0)
    except RuntimeError as error:
        if "could not create a primitive" not in str(error):
            raise
        pytest.skip(f"torch has no {name} of {dtype} for this processor: {error}")
    model = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = AdamW(model.parameters(), 0.01, weight_decay=0.1)
    before, others = _row(model).clone(), input_embedding(model).weight.detach().clone()
    with freeze_pad_row(model):
        for step in range(3):
            with torch.autocast("cpu", dtype):
                scaled = scaler.scale(loss(model, step))
            scaled.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            scaler.unscale_(optimizer)
            clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert _same_bits(_row(model), before)
    assert (input_embedding(model).weight[PAD + 1 :] != others[PAD + 1 :]).any(dim=1).all()


def test_an_overflow_in_the_row_skips_no_step() -> None:
    """An infinite gradient of only the row is cleared, and a gradient scaler takes its step."""
    model = _lstm()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    optimizer = SGD(model.parameters(), 0.1)
    with freeze_pad_row(model):
        overflow = _row(model) * 0 + torch.inf
        extra = (input_embedding(model).weight[PAD] * overflow).sum()
        scaler.scale(_lstm_loss(model, 0) + extra).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0
    assert _row(model).isfinite().all()


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool) -> None:
    """The row stays under gradient checkpointing."""
    model: Any = _bert()
    # transformers renamed it
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    model.train()
    with freeze_pad_row(model):
        assert not _moves(model, _bert_loss, AdamW(model.parameters(), 0.01, weight_decay=0.1))


def test_sparse_gradients() -> None:
    """Reading pads moves the row of a sparse embedding, unless it is frozen."""
    for frozen in (True, False):
        torch.manual_seed(0)
        words = nn.Embedding(WORDS, DIM, sparse=True)
        before = words.weight.detach().clone()
        with freeze_pad_row(words, PAD) as handle:
            if not frozen:
                handle.remove()
            optimizer = SparseAdam(words.parameters(), 0.1)
            for ids in ([PAD, PAD, 5], [PAD, 7, 7]):
                words(torch.tensor(ids)).pow(2).sum().backward()
            assert words.weight.grad is not None
            assert bool(words.weight.grad.to_dense()[PAD].any()) is not frozen
            optimizer.step()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        moved = (words.weight != before).any(dim=1).nonzero().flatten().tolist()
        assert moved == ([5, 7] if frozen else [PAD, 5, 7])


class DecaysAfterwards(SGD):
    """An optimizer that wraps another, as users write them."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # it needs no loss
        super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for weight in group["params"]:
                    weight.mul_(0.9)


def test_optimizer_on_top_of_another() -> None:
    """The row stays if a step continues after the step of its base class."""
    model = _lstm()
    with freeze_pad_row(model):
        assert not _moves(model, _lstm_loss, DecaysAfterwards(model.parameters(), 0.1))
    assert _moves(model, _lstm_loss, DecaysAfterwards(model.parameters(), 0.1))


def test_step_in_the_backward_pass() -> None:
    """The row stays if a hook takes the step in the backward pass and releases the gradient."""
    model = _lstm()
    optimizer = SGD(model.parameters(), 0.1)

    def step(_: Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    hook = input_embedding(model).weight.register_post_accumulate_grad_hook(step)  # type: ignore[no-untyped-call]  # untyped
    with freeze_pad_row(model):
        assert not _moves(model, _lstm_loss, optimizer)
    assert _moves(model, _lstm_loss, optimizer)
    hook.remove()


def test_step_that_fails() -> None:
    """A step that raised does not restore an old row later."""
    model = _lstm()
    optimizer = SGD(model.parameters(), 0.1)

    def fail() -> float:
        raise RuntimeError("no loss")

    with freeze_pad_row(model):
        with pytest.raises(RuntimeError, match="no loss"):
            optimizer.step(fail)
        _row(model).fill_(2.0)
        assert not _moves(model, _lstm_loss, optimizer)
    assert _same_bits(_row(model), torch.full((DIM,), 2.0))


# ------------------------------------------------------------------------------------------------- what stays as it was


@every_model
def test_model_is_as_before(make: Callable[[], nn.Module], loss: Loss) -> None:
    """Freezing adds no modules, weights or keys to the model."""

    def seen() -> list[Any]:
        keys = list(model.state_dict())
        kinds = [(name, type(module), list(vars(module))) for name, module in model.named_modules()]
        return [keys, kinds, [name for name, _ in model.named_parameters()]]

    model = make()
    before = seen()
    with freeze_pad_row(model):
        assert seen() == before
        _train(model, loss, SGD(model.parameters(), 0.1))
    assert seen() == before
    assert not getattr(input_embedding(model).weight, "_post_accumulate_grad_hooks", None)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": lambda model: torch.load(io.BytesIO(_saved(model)), weights_only=False),
}


def _saved(model: nn.Module) -> bytes:
    torch.save(model, file := io.BytesIO())
    return file.getvalue()


@every_model
@pytest.mark.parametrize("way", COPIES)
def test_copies_are_not_frozen(make: Callable[[], nn.Module], loss: Loss, way: str) -> None:
    """A copy of a frozen model has the same weights and a row that moves; the row of the model stays."""
    model = make()
    with freeze_pad_row(model):
        _train(model, loss, SGD(model.parameters(), 0.1))
        other = COPIES[way](model)
        for ours, theirs in zip(other.parameters(), model.parameters(), strict=True):
            assert _same_bits(ours, theirs)
        assert _moves(other, loss, SGD(other.parameters(), 0.1))
        assert not _moves(model, loss, SGD(model.parameters(), 0.1))


def test_saving_in_between(tmp_path: Path) -> None:
    """A model saved while frozen opens with the same row."""
    model: Any = _bert()
    before = _row(model).clone()
    with freeze_pad_row(model):
        _train(model, _bert_loss, AdamW(model.parameters(), 0.01))
        model.save_pretrained(tmp_path)
    assert _same_bits(_row(BertForMaskedLM.from_pretrained(tmp_path)), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_dtype(dtype: torch.dtype) -> None:
    """A model in another dtype keeps the row in that dtype, and the rounded row when it returns."""
    model = _lstm()
    expected = _row(model).to(dtype)
    with freeze_pad_row(model):
        model.to(dtype)
        assert not _moves(model, _lstm_loss, AdamW(model.parameters(), 0.1, weight_decay=0.1))
        assert _same_bits(_row(model), expected)
        _lstm_loss(model, 0).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        gradient = input_embedding(model).weight.grad
        assert gradient is not None
        assert not gradient[PAD].any()
        model.zero_grad()
        model.float()
        assert not _moves(model, _lstm_loss, AdamW(model.parameters(), 0.1, weight_decay=0.1))
        assert _same_bits(_row(model), expected.float())


def test_what_you_write_stays() -> None:
    """A row that load_state_dict or the user writes is kept from then on."""
    model = _lstm()
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    with freeze_pad_row(model):
        assert not _moves(model, _lstm_loss, optimizer)
        contents = model.state_dict()
        contents["words.weight"] = contents["words.weight"].clone()
        contents["words.weight"][PAD] = 5.0
        model.load_state_dict(contents)
        assert not _moves(model, _lstm_loss, optimizer)
        assert (_row(model) == 5.0).all()
        _row(model).zero_()
        assert not _moves(model, _lstm_loss, optimizer)
        assert not _row(model).any()


def test_resized_embedding() -> None:
    """The row stays if the embedding is resized."""
    model: Any = _bert()
    before = _row(model).clone()
    with freeze_pad_row(model):
        model.resize_token_embeddings(WORDS + 2, mean_resizing=False)
        assert not _moves(model, _bert_loss, AdamW(model.parameters(), 0.01, weight_decay=0.1))
    assert len(model.get_input_embeddings().weight) == WORDS + 2
    assert _same_bits(_row(model), before)


EXCHANGES: dict[str, Callable[[Any], Any]] = {
    "tied the other way round": lambda model: setattr(model.words, "weight", model.decoder.weight),
    "assigned": lambda model: model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True),
}


@pytest.mark.parametrize("way", EXCHANGES)
def test_another_matrix(way: str) -> None:
    """The row of a replaced matrix stays, and its gradient is cleared after one step."""
    torch.manual_seed(0)
    model = LSTMLanguageModel(tied=False)
    old = model.words.weight
    with freeze_pad_row(model):
        EXCHANGES[way](model)
        model.decoder.weight = model.words.weight
        assert model.words.weight is not old
        assert not _moves(model, _lstm_loss, AdamW(model.parameters(), 0.01, weight_decay=0.1))
        _lstm_loss(model, 0).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        assert model.words.weight.grad is not None
        assert not model.words.weight.grad[PAD].any()
    for weight in (old, model.words.weight):
        assert not getattr(weight, "_post_accumulate_grad_hooks", None)


def test_embedding_that_trains_later() -> None:
    """A matrix without gradient stays so; once it trains, its row is kept and its gradient cleared."""
    model = _lstm()
    weight = input_embedding(model).weight.requires_grad_(False)
    with freeze_pad_row(model):
        assert not weight.requires_grad
        weight.requires_grad_(True)
        assert not _moves(model, _lstm_loss, SGD(model.parameters(), 0.1, weight_decay=0.1))
        _lstm_loss(model, 0).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        assert weight.grad is not None
        assert not weight.grad[PAD].any()


# ----------------------------------------------------------------------------------------------------------- the handle


def test_hooks_are_gone() -> None:
    """No hook remains after one or two removals, or after a block that ends in an error."""
    model, before = _lstm(), _global_hooks()
    handle = freeze_pad_row(model)
    assert len(_global_hooks()) == len(before) + 2
    for _ in range(2):
        handle.remove()
        assert _global_hooks() == before
    with pytest.raises(RuntimeError), freeze_pad_row(model):
        raise RuntimeError
    assert _global_hooks() == before
    assert not getattr(input_embedding(model).weight, "_post_accumulate_grad_hooks", None)


def test_two_models() -> None:
    """Two models frozen together keep their rows, under one or two optimizers, and unfreeze separately."""
    lstm, bert = _lstm(), _bert()
    first, second = freeze_pad_row(lstm), freeze_pad_row(bert)
    rows = [_row(lstm).clone(), _row(bert).mul_(2.0).clone()]
    assert not _moves(lstm, _lstm_loss, SGD(lstm.parameters(), 0.1))
    assert not _moves(bert, _bert_loss, SGD(bert.parameters(), 0.1))
    both = AdamW([*lstm.parameters(), *bert.parameters()], 0.01, weight_decay=0.1)
    _train(nn.ModuleList([lstm, bert]), lambda models, n: _lstm_loss(models[0], n) + _bert_loss(models[1], n), both)
    assert _same_bits(_row(lstm), rows[0])
    assert _same_bits(_row(bert), rows[1])
    first.remove()
    assert _moves(lstm, _lstm_loss, SGD(lstm.parameters(), 0.1))
    assert not _moves(bert, _bert_loss, SGD(bert.parameters(), 0.1))
    second.remove()


def test_two_rows_of_one_model() -> None:
    """Two rows of one model freeze and unfreeze separately."""
    model = _lstm()
    first, second = freeze_pad_row(model), freeze_pad_row(model, 0)
    before = input_embedding(model).weight.detach().clone()
    _train(model, _lstm_loss, SGD(model.parameters(), 0.1))
    moved = (input_embedding(model).weight != before).any(dim=1)
    assert (~moved).nonzero().flatten().tolist() == [0, PAD]
    first.remove()
    _train(model, _lstm_loss, SGD(model.parameters(), 0.1))
    moved = (input_embedding(model).weight != before).any(dim=1)
    assert (~moved).nonzero().flatten().tolist() == [0]
    second.remove()


def test_dropped_handle_and_dropped_model() -> None:
    """A dropped handle still freezes; a dropped model is freed, and other optimizers continue."""
    model, other, left = _lstm(), _lstm(), _global_hooks()
    freeze_pad_row(model)
    gc.collect()
    assert not _moves(model, _lstm_loss, SGD(model.parameters(), 0.1))
    alive = weakref.ref(input_embedding(model).weight)
    del model
    gc.collect()
    assert alive() is None
    assert _moves(other, _lstm_loss, SGD(other.parameters(), 0.1))
    for key in set(_global_hooks()) - set(left):  # two empty hooks remain; the fixture requires none
        torch_optimizers._global_optimizer_pre_hooks.pop(key, None)
        torch_optimizers._global_optimizer_post_hooks.pop(key, None)


# ---------------------------------------------------------------------------------------------------------- the Trainer

TRAINER: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "accumulation, clipping, bfloat16": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.01, "bf16": True},
    "gradient checkpointing, Adafactor": {"gradient_checkpointing": True, "optim": "adafactor"},
}
TRAINER_ONE_BY_ONE: dict[str, dict[str, Any]] = {
    "accumulation and clipping": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.01},
    "bfloat16": {"bf16": True},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "Adafactor": {"optim": "adafactor"},
}


def _use_trainer(model: nn.Module, out: Path, **options: Any) -> None:
    data: Any = [{"input_ids": ids, "labels": ids, "attention_mask": ids != PAD} for n in range(8) for ids in _ids(n)]
    arguments = TrainingArguments(
        output_dir=str(out),
        **{
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "weight_decay": 0.1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **options,
        },
    )
    resume = str(out / "checkpoint-2") if (out / "checkpoint-2").exists() else None
    Trainer(model=model, args=arguments, train_dataset=data).train(resume_from_checkpoint=resume)


# The host's own: names that transformers will drop, and what accelerate says of a machine without a GPU.
trains = pytest.mark.filterwarnings(
    "ignore:.gradient_checkpointing. is deprecated:FutureWarning",
    "ignore:.*pin_memory.*:UserWarning",
    "ignore::FutureWarning:transformers",
)


@trains
@pytest.mark.parametrize(
    "options",
    [
        *(pytest.param(TRAINER[name], id=name) for name in sampled(TRAINER, every=3)),
        *(pytest.param(options, id=name, marks=pytest.mark.full) for name, options in TRAINER_ONE_BY_ONE.items()),
    ],
)
def test_trainer(options: dict[str, Any], tmp_path: Path) -> None:
    """Transformers' Trainer moves the row, unless it is frozen."""
    pytest.importorskip("accelerate", reason='needs pip install "sentence-transformers[train]"')
    plain, model = _bert(), _bert()
    before, others = _row(model).clone(), input_embedding(model).weight.detach().clone()
    _use_trainer(plain, tmp_path, **options)
    assert not _same_bits(_row(plain), before)
    with freeze_pad_row(model):
        _use_trainer(model, tmp_path, **options)
    assert _same_bits(_row(model), before)
    assert (input_embedding(model).weight[PAD + 1 :] != others[PAD + 1 :]).any(dim=1).all()


@pytest.mark.full  # trains twice; one training runs by default
@trains
def test_trainer_resumes(tmp_path: Path) -> None:
    """A run resumed from a checkpoint of the Trainer keeps the row of the checkpoint."""
    pytest.importorskip("accelerate", reason='needs pip install "sentence-transformers[train]"')
    model = _bert()
    before = _row(model).clone()
    with freeze_pad_row(model):
        _use_trainer(model, tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    resumed = _bert()
    _row(resumed).fill_(7.0)
    with freeze_pad_row(resumed):
        _use_trainer(resumed, tmp_path)
    assert _same_bits(_row(resumed), before)


# ------------------------------------------------------------------------------------------ which row, and what is tied


def test_which_embedding(tmp_path: Path) -> None:
    """The embedding of plain models, transformers, wrappers and encoder-decoders is found."""
    lstm: Any = _lstm()
    bert: Any = _bert()
    host = SentenceTransformer(modules=[Transformer(str(tiny.save_model(tmp_path)))], device="cpu")
    host_model: Any = host[0]
    assert input_embedding(lstm) is lstm.words
    assert input_embedding(lstm.words) is lstm.words
    assert input_embedding(bert) is bert.bert.embeddings.word_embeddings
    assert input_embedding(nn.DataParallel(bert)) is bert.bert.embeddings.word_embeddings
    assert input_embedding(host) is host_model.auto_model.embeddings.word_embeddings
    assert tied_heads(host) == []


def test_what_is_tied() -> None:
    """Heads and further embeddings that share the matrix are named; an untied head is not."""
    sizes: dict[str, Any] = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_layers": 1}
    seq2seq = T5ForConditionalGeneration(T5Config(vocab_size=WORDS, **sizes))
    assert tied_heads(_lstm()) == ["decoder"]
    assert tied_heads(_bert()) == ["cls.predictions.decoder"]
    assert tied_heads(LSTMLanguageModel(tied=False)) == []
    further = ["encoder.embed_tokens", "decoder.embed_tokens"]
    if seq2seq.encoder.embed_tokens is seq2seq.shared:  # before transformers 5.0: not a module that shares the matrix
        further = []
    assert tied_heads(seq2seq) == [*further, "lm_head"]
    towers = nn.ModuleList([LSTMLanguageModel(), LSTMLanguageModel()])
    second: Any = towers[1]
    assert tied_heads(towers, embedding=second.words) == ["1.decoder"]


def _frozen_row(model: nn.Module, **options: Any) -> int:
    """Return the row whose gradient is cleared."""
    embedding: nn.Embedding = options.get("embedding") or input_embedding(model)
    with freeze_pad_row(model, **options):
        embedding.weight.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    assert embedding.weight.grad is not None
    (row,) = (~embedding.weight.grad.any(dim=1)).nonzero().flatten().tolist()
    embedding.weight.grad = None
    return int(row)


def test_which_row() -> None:
    """The row is the argument, else the config's pad token, else padding_idx; in two towers, of the right one."""
    bert: Any = _bert()
    assert _frozen_row(bert) == PAD
    assert _frozen_row(bert, pad_token_id=0) == 0
    bert.config.pad_token_id = 2
    assert _frozen_row(bert) == 2
    bert.config.pad_token_id = None
    assert _frozen_row(bert) == PAD
    other: Any = _bert()
    other.config.pad_token_id = 9
    bert.config.pad_token_id = 2
    towers = nn.ModuleList([bert, other])
    assert _frozen_row(towers, embedding=bert.get_input_embeddings()) == 2
    assert _frozen_row(towers, embedding=other.get_input_embeddings()) == 9


def test_bias_of_a_tied_head_trains() -> None:
    """The bias of BERT's tied head at the pad still trains."""
    model: Any = _bert()
    before = model.cls.predictions.bias[PAD].item()
    with freeze_pad_row(model):
        assert not _moves(model, _bert_loss, SGD(model.parameters(), 0.1))
    assert model.cls.predictions.bias[PAD].item() != before


# ------------------------------------------------------------------------------------------------------ refusals


def _parametrized() -> nn.Module:
    model: Any = _lstm()
    parametrize.register_parametrization(model.words, "weight", nn.Tanh())
    return model.words  # type: ignore[no-any-return]  # any module has any attribute


def _with_config(pad_token_id: object) -> nn.Module:
    model: Any = _bert()
    model.config = type("Config", (), {"pad_token_id": pad_token_id})()
    return model  # type: ignore[no-any-return]  # the same


REFUSALS: dict[str, tuple[Callable[[], Any], dict[str, Any], type[Exception], str]] = {
    "no module": (lambda: "bert", {}, TypeError, "model must be a torch.nn.Module, got str"),
    "no module, an embedding": (
        lambda: "bert",
        {"embedding": nn.Embedding(2, 2)},
        TypeError,
        "model must be a torch.nn.Module, got str",
    ),
    "no embedding": (
        lambda: nn.Linear(2, 2),
        {},
        ValueError,
        "model must have get_input_embeddings(), which returns a torch.nn.Embedding, or exactly one "
        "torch.nn.Embedding, got none: name the one that reads token ids, embedding=model.…",
    ),
    "two embeddings": (
        lambda: nn.Sequential(nn.Embedding(3, 2), nn.Sequential(nn.Embedding(4, 2))),
        {},
        ValueError,
        "got Embedding '0', Embedding '1.0': name the one that reads token ids, embedding=model.…",
    ),
    "embedding of another kind": (
        _lstm,
        {"embedding": nn.Linear(2, 2)},
        TypeError,
        "embedding must be a torch.nn.Embedding, got Linear",
    ),
    "embedding from elsewhere": (
        _lstm,
        {"embedding": nn.Embedding(3, 2)},
        ValueError,
        "embedding must be a part of model, got Embedding(3, 2), which is not: pass embedding=model.…",
    ),
    "computed matrix": (_parametrized, {}, ValueError, "embedding.weight must be a parameter, got a Tensor"),
    "no pad known": (
        lambda: nn.Embedding(3, 2),
        {},
        ValueError,
        "pad_token_id must be the row of the pad token, got None, and neither model.config.pad_token_id nor "
        "embedding.padding_idx names one: pass pad_token_id=tokenizer.pad_token_id",
    ),
    "no integer": (_lstm, {"pad_token_id": "[PAD]"}, TypeError, "pad_token_id must be an integer, got str: pass"),
    "a bool": (_lstm, {"pad_token_id": True}, TypeError, "pad_token_id must be an integer, got bool: pass"),
    "no row": (
        _lstm,
        {"pad_token_id": WORDS},
        ValueError,
        f"pad_token_id must be a row of the embedding matrix, 0 to {WORDS - 1}, got {WORDS}: pass",
    ),
    "negative, from the config": (
        lambda: _with_config(-1),
        {},
        ValueError,
        f"0 to {WORDS - 1}, got -1 from model.config.pad_token_id: pass tokenizer.pad_token_id",
    ),
    "rescaled by the forward pass": (
        lambda: nn.Embedding.from_pretrained(torch.ones(3, 4), max_norm=1.0),  # type: ignore[no-untyped-call]  # untyped
        {"pad_token_id": 0},
        ValueError,
        "embedding.max_norm must be at least the norm of the pad row, 2, got 1.0",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    """Bad input is refused with an error that names the argument, the value and a fix; no hook remains."""
    make, options, error, words = REFUSALS[name]
    model = make()
    with pytest.raises(error, match=re.escape(words)):
        freeze_pad_row(model, **options)


def test_norm_that_is_small_enough() -> None:
    """A row within max_norm can be frozen: the forward pass does not rescale it."""
    words = nn.Embedding(3, 4, max_norm=3.0)
    words.weight.detach()[0] = 1.0
    with freeze_pad_row(words, 0):
        words(torch.tensor([0, 1]))
    assert (words.weight[0] == 1.0).all()
