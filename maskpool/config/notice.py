"""The notice in the model card of a model whose pooling is one of maskpool."""

from __future__ import annotations

import re

_BEGIN, _END = "<!-- maskpool -->", "<!-- end of maskpool -->"
_SECTION = re.compile(rf"\n{_BEGIN}.*?{_END}\n", re.DOTALL)
NOTICE = f"""
{_BEGIN}
The pooling of this model is one of maskpool. Install it with `pip install "maskpool[st]"`, and open the model with

```python
from maskpool.integrations.sentence_transformers import load

model = load("path or name of this model")
```

With maskpool installed, `SentenceTransformer(..., trust_remote_code=True)` opens it as well.
{_END}
"""


def without_notice(card: str) -> str:
    """Return the text of a model card without the notice.

    Example:
        >>> without_notice(f"Usage.{NOTICE}")
        'Usage.'
    """
    return _SECTION.sub("", card)
