"""A batch of sentences: its two forms behind one constructor (`token_batch`), and the validation of inputs (`checks`)."""
