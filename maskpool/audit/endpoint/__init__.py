"""Whether a running server gives the vectors that it should."""

from maskpool.audit.endpoint.report import EndpointReport
from maskpool.audit.endpoint.run import audit_endpoint, describe_requests

__all__ = ["EndpointReport", "audit_endpoint", "describe_requests"]
