"""The types of transformers, for annotations.

At run time they are stand-ins that type hints resolve to: transformers itself is loaded with the first model.
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
