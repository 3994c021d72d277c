"""Scores: from pooled vectors to scores, shifts and intervals."""
