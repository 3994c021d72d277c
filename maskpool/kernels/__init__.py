"""The kernels of all poolings, written twice: for a sparse batch (`csr`) and for a padded one (`dense`)."""
