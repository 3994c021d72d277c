"""Numerical tolerances, each with its reason: the noise of clean runs below it, and the leaks above it."""

from __future__ import annotations

# --- Token states: max|a − b| over the root mean square of a (`maskpool.audit.states.relative`) ---

# Noise of clean float32 encoders stays below CLEAN. Leaks of positions begin near 2e-3, leaks of content near 6e-2.
# Between CLEAN and LEAK the audit measures again in float64, where noise almost vanishes and a leak remains.
CLEAN, LEAK = 2e-5, 1e-4
# States agree up to so many spacings of numbers near 1; a leak across modules, which cannot run in float64, is larger.
STATE_ROUNDINGS = 40
# Rounding in half precision, which autocast may do, is a tenth of it. States of another module are twice it.
OTHER_STATES = 0.5

# --- Vectors of a pipeline: ‖a − b‖ / max(‖a‖, ‖b‖) (`maskpool.audit.probes.difference`) ---

# Clean float32 vectors differ by less than 1e-5, leaks begin near 1e-3.
VECTOR_CHANGE = 1e-4
# In formats coarser than float32, clean vectors differ by a few spacings of numbers near 1.
VECTOR_ROUNDINGS = 8
# A leak exceeds so many times the noise between equal calls, or next to companions of the same length.
TIMES_NOISE = 20
# Noise between equal calls above which no leak can be recognised.
TOO_NOISY = 0.02
# Rounding in bfloat16 changes a vector by less.
HALF_ROUNDING = 0.02
# A pipeline whose vectors of all texts differ by less ignores the text.
SAME_FOR_ALL_TEXTS = 1e-9
# A vector that is rounded to bfloat16 differs by about 1e-3 from the formula that gives it.
SAME_VECTOR = 2e-3
# A vector was normalised if its length is 1 to this.
UNIT_LENGTH = 1e-3
# Two vectors are parallel if their cosine is 1 to this.
PARALLEL = 1e-6
# Companions move vectors along one line, by a mean over pads, if the cosine of the moves is 1 and the ratio of their
# lengths the expected one, to these: pads of one text differ a little between batches.
SAME_LINE, SAME_RATIO = 1e-4, 0.01

# --- Pooled vectors of a study (`maskpool.bench`) ---

# A treatment moved nothing if no vector moved by more than this share of its length: float32 has seven digits.
IDENTICAL = 1e-6
# Two texts are equally near if their cosines differ by less: twice what noise of 1e-7 in the components of unit vectors
# and float32 products do to a difference of two of millions of cosines.
SAME_SIMILARITY = 4e-6

# --- Spacing of numbers near 1 (torch.finfo(dtype).eps), by which the audit recognises formats ---

# float64 is finer (2e-16), float32 coarser (1.2e-7).
COARSER_THAN_FLOAT64 = 1e-9
# float32 is finer (1.2e-7), the half precisions coarser (1e-3 and 8e-3).
COARSER_THAN_FLOAT32 = 1e-6

# --- Pads of a model (`maskpool.pads`) ---

# Whichever kernel computes attention, clean models repeat their outputs to 1e-5 of the largest.
SAME_OUTPUTS = 1e-4

# --- Vectors of a server (`maskpool.audit.endpoint`) ---

# Numbers are on a grid if they are within this of it: float32 in JSON has seven digits.
GRID = 1e-6
# Two texts that are equal once they are cut have vectors that differ by less, also in a list of both.
SAME_INPUT = 1e-6
# Nine vectors are combinations of five if the sixth singular value is smaller, relative to the first; of short texts of
# the same model it must be so many times larger.
LOW_RANK, LOW_RANK_CONTROL = 1e-5, 10
# Vectors of the same model differ between a server and this machine by at most so many times the server's own noise.
TIMES_FLOOR = 4
