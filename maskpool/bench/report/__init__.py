"""Results, tables, figures and pages."""
