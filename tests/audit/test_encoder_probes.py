"""The probes of encoders behind the census: each planted fault gets its verdict, and only that."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskpool.audit.encoder_probes import NoStatesError, Text, Trial, find_cause, judge, probe
from tests.audit import planted

WORDS = range(10, 60)
PAD = 3
LIMIT = 8


class Encoder(nn.Module):
    """An encoder whose states depend on the mean of all real tokens, optionally with a fault."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.fault, self.longest, self.shortest = fault, 0, 1000
        self.words = nn.Parameter(torch.randn(64, 8, generator=generator))
        self.places = nn.Parameter(torch.randn(128, 8, generator=generator))

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x, width = self.words[input_ids], input_ids.shape[1]
        weights = mask.unsqueeze(-1).to(x.dtype)
        mean = (x * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
        columns = torch.arange(width).unsqueeze(0)
        self.longest, self.shortest = max(self.longest, width), min(self.shortest, width)
        states = x + mean
        match self.fault:
            case "positions":
                states = states + self.places[columns if position_ids is None else position_ids]
            case "scale by the last position":
                positions = columns if position_ids is None else position_ids
                states = states * (1 + positions.max())
            case "positions behind the pad":
                states = states + self.places[columns + PAD + 1 if position_ids is None else position_ids]
            case "positions, none taken":
                states = states + self.places[columns]
            case "positions from ids":
                counted = (input_ids != PAD).cumsum(dim=1)
                states = states + self.places[counted if position_ids is None else position_ids]
            case "content":
                states = x + x.mean(dim=1, keepdim=True)
            case "content on the right":
                states = states + x[:, -1:] * (1 - mask[:, -1:, None])
            case "content past the limit":
                states = states + (x.mean(dim=1, keepdim=True) if width > LIMIT else 0)
            case "length":
                states = states * width
            case "size of the batch":
                states = states * len(input_ids)
            case "batch":
                states = states + mean.mean(dim=0, keepdim=True)
            case "state":
                states = states + self.longest
            case "state of a shorter call":
                states = states + (self.shortest < 6)
            case "nothing read":
                states = x
            case "no numbers":
                states = states / mask[:, :1, None]
            case "pads counted at pads":
                states = states + (1 - weights) * (width - weights.sum(dim=1, keepdim=True))
        return SimpleNamespace(last_hidden_state=states)


class TakesNoPositions(Encoder):
    """An encoder without position ids."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:  # type: ignore[override]
        return super().forward(input_ids, attention_mask)


def trials(model: nn.Module, seed: int = 0) -> list[Trial]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [(5, 3), (5, LIMIT + 2), (19, 3), (19, LIMIT + 2)]
    return [probe(model, Text.drawn(WORDS, *size, generator), PAD, "eager") for size in sizes]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ("", "clean"),
        ("positions", "position shift, left, cured by position ids from 0"),
        (
            "scale by the last position",
            "length leak, right, cured by position ids from 0; position shift, left, cured by position ids from 0",
        ),
        ("positions behind the pad", "position shift, left, cured by position ids from pad + 1"),
        ("positions, none taken", "position shift, left"),
        ("positions from ids", "clean with the pad's own id alone, left"),
        ("content", "content leak, right and left"),
        ("content on the right", "content leak, right"),
        ("content past the limit", "content leak, right and left"),
        ("length", "length leak, right and left"),
        ("batch", "batch coupling"),
        ("size of the batch", "batch coupling"),
        ("state", "length leak, right and left; state"),
        ("state of a shorter call", "state"),
        ("nothing read", "vacuous"),
        ("no numbers", "no numbers, left"),
        ("pads counted at pads", "clean"),
    ],
)
def test_each_fault_gets_its_verdict(fault: str, verdict: str, seed: int) -> None:
    """The verdict names the planted fault, and only that."""
    model = TakesNoPositions(fault) if fault == "positions, none taken" else Encoder(fault)
    assert judge(trials(model, seed), LIMIT).verdict == verdict


def test_a_leak_past_the_limit_is_told_from_one_everywhere() -> None:
    """Only a leak that texts within the limit do not show requires long texts."""
    assert judge(trials(Encoder("content past the limit")), LIMIT).short == ("right", "left")
    assert judge(trials(Encoder("content past the limit"))).short == ()
    assert judge(trials(Encoder("content")), LIMIT).short == ()
    assert judge(trials(Encoder()), LIMIT).short == ()


def test_pads_that_count_pads_forbid_one_pass_for_all_widths() -> None:
    """Outputs at pads that depend on the number of pads are reported, even if real tokens are clean."""
    assert judge(trials(Encoder("pads counted at pads"))).appends == {"eager": False}
    assert judge(trials(Encoder("length"))).appends == {"eager": False}
    assert judge(trials(Encoder("positions"))).appends == {"eager": True}


def test_each_implementation_of_attention_is_judged_by_its_own_trials() -> None:
    """A fault in one implementation forbids one pass only there, and decides the verdict."""
    eager = trials(Encoder("length"))
    sdpa = [Trial(trial.length, trial.pads, "sdpa", trial.single, trial.double) for trial in trials(Encoder())]
    judgement = judge([*sdpa, *eager])
    assert judgement.appends == {"sdpa": True, "eager": False}
    assert judgement.verdict == "length leak, right and left (in eager attention alone)"


@pytest.mark.parametrize(
    ("single", "double", "leaks"),
    [
        (1e-6, None, False),
        (5e-5, None, False),
        (5e-4, None, True),
        (None, None, True),
        (5e-5, 4.9e-5, True),
        (5e-2, 3e-7, False),
        (None, 3e-7, False),
    ],
)
def test_float64_decides_where_it_was_measured(single: float | None, double: float | None, leaks: bool) -> None:
    """Noise vanishes in float64 and a leak does not; without float64 the wider bound decides."""
    exact = {} if double is None else {"right": double}
    assert Trial(5, 3, "eager", {"right": single, "batch size": 1e-7}, exact).leaks("right") == leaks


def test_the_floor_is_measured_where_float64_is_not() -> None:
    """The bound is twenty times the change by another batch size."""
    noisy = {"right": 5e-4, "batch size": 1e-4}
    assert not Trial(5, 3, "eager", noisy).leaks("right")
    assert Trial(5, 3, "eager", {**noisy, "right": 3e-3}).leaks("right")


def test_a_probe_leaves_the_model_alone() -> None:
    """State of a longer call stays in a copy."""
    model = Encoder("state")
    trials(model)
    assert model.longest == 0


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_cause_is_found_as_the_audit_finds_it(side: Any) -> None:
    """A convolution across pads is named with its module; a clean encoder has no cause."""
    text = Text.drawn(range(6, 40), 7, 5, torch.Generator().manual_seed(0))
    leaking = planted.Inside(planted.Convolution())
    finding = find_cause(leaking, text, 0, side)
    assert finding is not None
    assert finding.cause == "convolution across pads"
    assert "Conv1d" in finding.evidence
    assert find_cause(Encoder(), text, 0, side) is None


def test_a_model_without_token_states_is_refused() -> None:
    """A model that returns no token states is refused."""

    class Pools(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
            return torch.zeros(len(input_ids), 4)

    with pytest.raises(NoStatesError, match="no states \\(batch, seq, dim\\) for 5 tokens"):
        trials(Pools())
