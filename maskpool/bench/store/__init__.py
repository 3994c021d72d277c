"""Results of a study on disk."""
