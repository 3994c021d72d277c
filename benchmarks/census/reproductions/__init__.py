"""One script per leak: it measures the leak with and without the mechanism that causes it."""
