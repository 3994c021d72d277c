"""The harness: what pooling over pads does to embeddings and to clusters."""
