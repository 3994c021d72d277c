"""The padding census: which architectures of transformers keep real tokens free of the padding, and which do not.

``run`` measures, ``models`` builds tiny models, ``table`` writes the results for people, and each script in
``reproductions`` isolates one leak.
"""
