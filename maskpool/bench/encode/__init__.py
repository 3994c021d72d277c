"""From texts to pooled vectors on disk."""
