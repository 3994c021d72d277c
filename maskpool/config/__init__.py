"""What a saved embedding model computes, what servers make of its files, and files that they read right.

This package imports neither torch nor transformers.
"""
