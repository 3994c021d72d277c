"""A batch of sentences: its two forms behind one constructor, and the validation of inputs."""
