"""An extension of griffe, which reads the docstrings for the Reference: sections "Example" are read as code."""

from __future__ import annotations

import re
from typing import Any

import griffe


class ReadExamples(griffe.Extension):
    """Rename the section "Example" to "Examples", the only name that griffe reads as code."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename the sections of one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
