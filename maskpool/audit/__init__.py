"""Whether padding changes the vectors of a pipeline, and why."""

from maskpool.audit.report import AuditReport, Finding
from maskpool.audit.run import assert_padding_invariant, audit_padding

__all__ = ["AuditReport", "Finding", "assert_padding_invariant", "audit_padding"]
