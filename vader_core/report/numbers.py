"""Numbers as the pages write them: three significant digits, everywhere."""

from __future__ import annotations

import math

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, *, signed: bool = False) -> str:
    """Three significant digits, with a true minus sign.

    >>> number(-0.123456), number(1234567.0), number(3.0), number(0.5, signed=True), number(1234.5)
    ('−0.123', '1.23 × 10⁶', '3.00', '+0.500', '1,230')
    >>> number(-2.707e-05), number(0.0, signed=True)
    ('−2.71 × 10⁻⁵', '0')
    """
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    rounded = float(f"{value:.2e}")
    power = math.floor(math.log10(abs(rounded)))
    sign = "+" if signed else ""
    if -4 <= power < 6:
        found = f"{rounded:{sign},.{max(0, 2 - power)}f}"
    else:
        figures, _, exponent = f"{value:{sign}.2e}".partition("e")
        found = f"{figures} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return found.replace("-", "−")


def tick(value: float) -> str:
    """A round number at an axis.

    >>> tick(2000.0), tick(-0.25), tick(3.0)
    ('2,000', '−0.25', '3')
    """
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return number(value)
    found = f"{value:,.6f}".rstrip("0").rstrip(".")
    return found.replace("-", "−") if found not in ("-0", "") else "0"
