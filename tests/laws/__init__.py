"""The laws that every pooling obeys, one file per law."""
