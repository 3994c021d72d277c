"""Find the device that a model runs on."""

from __future__ import annotations

import torch

from maskpool.errors import DeviceError
from maskpool.trust.loading import reason_of


def find_device(device: str | torch.device) -> torch.device:
    """Return a device that torch can compute on, with its index, as torch reports it for tensors on the device.

    Raises:
        DeviceError: Torch cannot use the device.
    """
    try:
        probe = torch.zeros(1, device=torch.device(device))
        probe.item()
    # Torch raises AssertionError for a device it was built without, and TypeError for a value that is not a device.
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise DeviceError(
            f"must be one that torch can use here, such as cpu, got {str(device)!r}: {reason_of(error)}",
            argument="device",
        ) from error
    return probe.device
