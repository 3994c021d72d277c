"""What a study measures: texts, plans, treatments, subsamples and comparisons."""
