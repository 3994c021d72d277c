"""Vet model folders before they are opened: never run their code, read files outside them, or ask on the terminal.

These names load no torch. Checks of what torch has loaded are in `maskpool.trust.sizes`.
"""

from maskpool.trust.files import Folder, check_regular, read_json
from maskpool.trust.hub import find_folder
from maskpool.trust.loading import EXPLICIT, as_folder_error, no_panics, no_questions, reason_of
from maskpool.trust.modules import HeadConfig, ModuleEntry, check_head, check_modules
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
    "check_transformer",
    "find_folder",
    "no_panics",
    "no_questions",
    "read_json",
    "reason_of",
]
