"""The laws that every pooling obeys, one file a law."""
