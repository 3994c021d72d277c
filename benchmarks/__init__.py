"""Scripts that compare maskpool with its peers; run one as ``python -m benchmarks.<name>``."""
