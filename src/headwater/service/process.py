"""Process: how a process that serves and does nothing else is set up. A host that mounts the app decides for itself."""

from __future__ import annotations

import gc


def settle() -> None:
    """Tell the garbage collector that what exists now stays, and to look less often.

    A thousand waiting connections are a thousand young objects that die by reference count; traversing them again and
    again cost a third of the throughput at 1,024 connections (12,000 against 18,000 requests/s).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
