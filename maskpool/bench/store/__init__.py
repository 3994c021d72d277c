"""What has been computed, on disk."""
