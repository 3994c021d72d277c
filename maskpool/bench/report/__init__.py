"""Reports: results, tables, figures and pages."""
