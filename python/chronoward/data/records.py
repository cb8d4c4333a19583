"""What values of clinical records say: words for "not done", positive and negative, and concepts.

The rules on records are applied by the core (`chronoward.data.record_mend`).
"""

from __future__ import annotations

NOT_DONE = (
    "NOT DONE", "NOT_DONE", "NOT PERFORMED", "TEST NOT DONE", "TEST NOT PERFORMED", "REFUSED",
    "PATIENT REFUSED", "CANCELLED", "CANCELED", "TEST CANCELLED", "HEMOLYZED", "HAEMOLYSED",
    "HEMOLYSED", "HAEMOLYZED", "GROSSLY HEMOLYZED", "CLOTTED", "SPECIMEN CLOTTED", "QNS",
    "QUANTITY NOT SUFFICIENT", "UNABLE TO REPORT", "UNABLE TO ASSESS", "NOT ASSESSED",
)  # fmt: skip
POSITIVE = ("POS", "POSITIVE", "POS.", "REACTIVE", "DETECTED")
NEGATIVE = ("NEG", "NEGATIVE", "NEG.", "NONREACTIVE", "NON-REACTIVE", "NOT DETECTED")
POSITIVE_CONCEPTS = (9191, 45884084, 4126681, 45877985)
NEGATIVE_CONCEPTS = (9189, 45878583, 4126673, 45880296)
BOUND_OPERATORS = (4171756, 4171754, 4172704, 4171755)
"""Operator concepts <, <=, >, >=."""
TEXT_LENGTH = 64
