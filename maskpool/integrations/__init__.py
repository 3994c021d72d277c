"""Host libraries, one leaf each; none is loaded before its leaf is."""
