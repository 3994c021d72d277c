"""The design of a study: texts, plans, treatments, subsamples and comparisons."""
