"""Vet model folders before they are opened: never run their code, read files outside them, or ask on the terminal."""

from maskpool.trust.files import Folder, check_regular, read_json
from maskpool.trust.hub import find_folder
from maskpool.trust.loading import (
    EXPLICIT,
    as_folder_error,
    find_device,
    no_panics,
    no_questions,
    reason_of,
    refuse_partial,
)
from maskpool.trust.modules import HeadConfig, ModuleEntry, check_head, check_modules
from maskpool.trust.sizes import check_size, check_token_ids, naming_tokenizer
from maskpool.trust.transformer import check_transformer

__all__ = [
    "EXPLICIT",
    "Folder",
    "HeadConfig",
    "ModuleEntry",
    "as_folder_error",
    "check_head",
    "check_modules",
    "check_regular",
    "check_size",
    "check_token_ids",
    "check_transformer",
    "find_device",
    "find_folder",
    "naming_tokenizer",
    "no_panics",
    "no_questions",
    "read_json",
    "reason_of",
    "refuse_partial",
]
