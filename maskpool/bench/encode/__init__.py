"""The encoder's part of a study: from texts to pooled vectors on disk."""
