"""`mapped` changes tensors at any depth of nested values, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from maskpool.audit.edits import mapped


class Features(NamedTuple):
    ids: Tensor
    mask: Tensor


def test_values_keep_their_types() -> None:
    """Tensors in named tuples, tuples, lists, mappings, model outputs and namespaces are replaced, in copies."""
    zeros = torch.zeros(2)
    features = Features(zeros, zeros)
    output = BaseModelOutput(last_hidden_state=zeros)
    value = [features, (zeros, "text"), {"ids": zeros, "more": [zeros]}, output, SimpleNamespace(ids=zeros), 3]
    changed: Any = mapped(value, lambda tensor: tensor + 1)
    assert [type(part) for part in changed] == [type(part) for part in value]
    new_features, (in_tuple, text), table, new_output, namespace, number = changed
    tensors = [*new_features, in_tuple, table["ids"], table["more"][0], new_output.last_hidden_state, namespace.ids]
    assert all(torch.equal(tensor, torch.ones(2)) for tensor in tensors)
    assert (text, number) == ("text", 3)
    assert not zeros.any()
    assert output.last_hidden_state is zeros
