"""The benchmark harness: it measures what pooling over pads does to embeddings and clusters."""
