"""How values of a medical image become grey: a window in Hounsfield units, or percentiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

__all__ = ["WINDOWS", "Window"]


@dataclass(frozen=True)
class Window:
    """From values to [0, 1].

    Attributes:
        units: "hu": ``low`` and ``high`` are Hounsfield units, and only values in these fit;
            "percent": they are percentiles of the image; "full": of the values that its bits can
            have.
        low: becomes 0, and what is below.
        high: becomes 1, and what is above.
    """

    units: str
    low: float
    high: float

    def __call__(self, values: torch.Tensor, *, hounsfield: bool, full: float) -> torch.Tensor:
        """Values to grey.

        Args:
            values: of any shape, floating point.
            hounsfield: they are Hounsfield units.
            full: the largest value that a stored pixel can have.

        Returns:
            The same shape, in [0, 1].

        Raises:
            ValueError: a window in Hounsfield units, and the values are not: 8-bit grey is none.
        """
        if self.units == "hu" and not hounsfield:
            raise ValueError(
                "a window in Hounsfield units needs a CT in DICOM, with slope and intercept; these"
                " values are none"
            )
        low, high = self.low, self.high
        if self.units == "percent":
            flat = values.flatten().double().sort().values
            places = [round((len(flat) - 1) * part / 100) for part in (low, high)]
            low, high = flat[places[0]].item(), flat[places[1]].item()
        elif self.units == "full":
            low, high = low * full, high * full
        if high <= low:
            return torch.zeros_like(values)
        return ((values - low) / (high - low)).clamp(0, 1)


WINDOWS: Mapping[str, Window] = MappingProxyType(
    {
        # Centre and width as radiologists give them: 40/400, -600/1500, 40/80, 400/1800.
        "ct_soft_tissue": Window("hu", -160, 240),
        "ct_lung": Window("hu", -1350, 150),
        "ct_brain": Window("hu", 0, 80),
        "ct_bone": Window("hu", -500, 1300),
        # Values of an MR scan or an X-ray have no unit: what is common to an image sets the scale.
        "mri": Window("percent", 1, 99),
        "chest_xray": Window("percent", 0.5, 99.5),
        "mammogram": Window("percent", 2, 99.8),
        "retina": Window("full", 0, 1),
    }
)
"""By modality."""
