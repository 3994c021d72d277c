"""The errors that maskpool raises on purpose.

Each derives from `MaskpoolError`, and also from the built-in error a caller would catch.
"""


class MaskpoolError(Exception):
    """Base of all errors that maskpool raises on purpose."""


class UserError(MaskpoolError):
    """An error the user can fix: the message names the argument or file and what would be accepted."""


class FolderError(UserError, ValueError):
    """A folder or file is malformed, or asks for something that opening it must never do."""


class WeightsError(FolderError, RuntimeError):
    """Weights belong to another model; torch raises RuntimeError for these."""


class NotFoundError(UserError, FileNotFoundError):
    """There is no such model, folder or file."""


class DeviceError(UserError, ValueError):
    """Torch cannot use the device."""


class RequirementError(UserError, ImportError):
    """A package is missing, or has a version that the model does not accept."""
