"""What the audit reads from the calls of a pipeline."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from maskpool.audit.probes import Measured, Moved
from maskpool.audit.trace import TokenCall
from maskpool.tolerances import TIMES_NOISE, VECTOR_CHANGE

IDS = torch.tensor([[5, 6, 0], [7, 8, 9]])


class TorchLayer(nn.Module):
    def forward(self, ids: Tensor, src_key_padding_mask: Tensor) -> Tensor:
        return ids


class Encoder(nn.Module):
    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return ids


def test_masks_are_read_as_their_modules_mean_them() -> None:
    """A bool padding mask of torch's layers is True at pads; other masks are used unchanged."""
    hidden = IDS == 0
    call = TokenCall(TorchLayer(), {"ids": IDS, "src_key_padding_mask": hidden}, IDS)
    assert call.mask is not None
    assert torch.equal(call.mask, ~hidden)
    for mask in (IDS != 0, (IDS != 0).long()):
        assert TokenCall(Encoder(), {"ids": IDS, "attention_mask": mask}, IDS).mask is mask
    assert TokenCall(Encoder(), {"ids": IDS}, IDS).mask is None


def test_a_leak_is_many_times_the_noise() -> None:
    """A leak exceeds 20 times the noise of equal calls and equally long companions, and 1e-4."""
    assert Measured().threshold == VECTOR_CHANGE
    assert Measured(repeated=1e-3).threshold == pytest.approx(TIMES_NOISE * 1e-3)
    noise = Moved(("a", "b"), torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2e-3]))
    assert Measured(repeated=1e-3, noise=noise).threshold == pytest.approx(TIMES_NOISE * 2e-3, rel=1e-3)
