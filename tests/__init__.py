"""The tests of maskpool."""
