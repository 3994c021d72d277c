"""What the audit changes in a pipeline's values, it changes at any depth, and it changes nothing else."""

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
    """Tensors are replaced inside of named tuples, tuples, lists, mappings, model outputs and namespaces, in copies."""
    one = torch.zeros(2)
    features = Features(one, one)
    output = BaseModelOutput(last_hidden_state=one)
    value = [features, (one, "text"), {"ids": one, "more": [one]}, output, SimpleNamespace(ids=one), 3]
    changed: Any = mapped(value, lambda tensor: tensor + 1)
    assert [type(part) for part in changed] == [type(part) for part in value]
    new_features, (in_tuple, text), table, new_output, namespace, number = changed
    found = [*new_features, in_tuple, table["ids"], table["more"][0], new_output.last_hidden_state, namespace.ids]
    assert all(torch.equal(tensor, torch.ones(2)) for tensor in found)
    assert (text, number) == ("text", 3)
    assert not one.any()
    assert output.last_hidden_state is one
