"""Ledger: double-entry accounts of money, tokens, shares and escrow. Owns assets, accounts, transfers, holds and seals.

The front door is `LedgerRepository`:

    ledger = headwater.repository(LedgerRepository)
    async with headwater.transaction() as tx:
        await ledger.open_asset(tx, "USD", scale=2)                          # get or make; amounts are in 10^-scale
        alice = await ledger.account(tx, "user", user_id, "USD")             # get or make; no overdraft
        world = await ledger.account(tx, "system", None, "USD", purpose="issuance", credit_limit=None)  # no limit
        await ledger.transfer(tx, debit=world.id, credit=alice.id, amount=1_000, id=deposit_id)

    Receipts     every command answers with a Receipt: `status`, the amount moved, both balances after. A refusal is a
                 value, not an error: `receipt.or_raise()` makes a StateConflict of it.
    Ids          are the client's (`id=`, a UUID; `new_id()` makes one in order of time, `id_of("order", key, "pay")`
                 the same one each time). The same id with the same body gets the same answer again, also a refusal,
                 with `repeated`; with another body Status.ID_CONFLICT.
    Balance      is credits less debits. An account may spend `balance - held + credit_limit`; limit None: anything.
    Holds        `hold(tx, debit=, credit=, amount=, expires_at=)` reserves; `post_hold(tx, hold_id, amount)` moves all
                 or a part and releases the rest (or keeps it: `keep_rest=True`, for milestones and partial fills);
                 `void_hold(tx, hold_id)` releases. A hold touches the debit account alone, until it is posted.
    Up to        `transfer(..., up_to=True)` moves what the debit account has, at most `amount`.
    Reversal     `reverse(tx, transfer_id)` moves the same amount back, once; history is never changed.
    Many         `post(tx, [Move(...), Hold(...), PostHold(...), VoidHold(...), Reverse(...)])` in the order given, by
                 one statement; members with `linked=True` succeed or fail together with the next. `post_one(command)`
                 has no transaction: concurrent callers travel together, each gets its receipt after the commit.
    Locks        are taken in the order of account ids, within one call. A transaction of several calls says first what
                 it will touch: `lock_accounts(tx, account_ids)`, or puts all into one `post`.
    Reads        `get(account_id)` (strictly cached), `balance_at(account_id, instant)`, `statement(account_id)`.

Public names: `headwater.modules.ledger.models` (Account, Asset, Transfer, TransferState, SYSTEM) and
`headwater.modules.ledger.repository` (LedgerRepository, Move, Hold, PostHold, VoidHold, Reverse, Receipt, Status,
new_id, id_of).
"""

from __future__ import annotations

from headwater.kernel.module import Module

MODULE = Module(
    name="ledger",
    package=__name__,
    summary="Double-entry accounts, transfers, holds and the proof that they add up.",
)
