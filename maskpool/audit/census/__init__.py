"""The padding census: what padding does to each text architecture of transformers, measured for one release.

``python -m benchmarks.census`` measures tiny random models with `maskpool.audit.encoder_probes` and writes
``census.json``. A row describes the code of an architecture, not its weights.
"""

from maskpool.audit.census.rows import Census, CensusRow, describe, find_row, load
from maskpool.audit.census.settings import settings_of, switches

__all__ = ["Census", "CensusRow", "describe", "find_row", "load", "settings_of", "switches"]
