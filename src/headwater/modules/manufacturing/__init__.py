"""Manufacturing: parts made to order. Owns orders with their specifications, their paid milestones, and inspections.

An order goes pending -> in_production -> quality_check -> completed, and back from quality_check to in_production for
rework; it can be cancelled until it is completed. A milestone goes pending -> in_progress -> completed, then waits for
its inspection, which it passes or fails; a failed one goes back to in_progress. Milestones are agreed before
production starts, because their amounts are then held from the customer in the ledger. A milestone that passes is paid
to the maker of the part (the issuer of the asset); cancelling gives the rest back. Each happens once.

Units: `amount` is in minor units of the order's currency, `quantity` counts parts. All are whole numbers.

Public names: `headwater.modules.manufacturing.models` (Order, Milestone, Inspection, Payment and other enums) and
`headwater.modules.manufacturing.repository` (ManufacturingRepository).
"""

from __future__ import annotations

from headwater.kernel.module import Module

MODULE = Module(
    name="manufacturing",
    package=__name__,
    summary="Orders for parts made to measure, their milestones and inspections.",
    depends_on=("identity", "ledger", "blockchain"),
)
