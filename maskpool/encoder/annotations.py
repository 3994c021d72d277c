"""Name the types of transformers for annotations.

At run time type hints resolve to placeholders, because transformers is only imported when the first model is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
else:
    PreTrainedModel: TypeAlias = nn.Module
    PreTrainedTokenizerBase: TypeAlias = Any
    PretrainedConfig: TypeAlias = Any

__all__ = ["PreTrainedModel", "PreTrainedTokenizerBase", "PretrainedConfig"]
