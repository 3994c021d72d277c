"""The kernels of all poolings, written twice: for a sparse batch (`csr`, `pattern`) and for a padded one (`dense`)."""
