"""From pooled vectors to scores, shifts and intervals."""
