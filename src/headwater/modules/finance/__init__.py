"""Finance: savings with yield. Owns who holds savings, their transactions, the distributions of yield and the trail.

The front door is `FinanceRepository`:

    finance = headwater.repository(FinanceRepository)
    async with headwater.transaction() as tx:
        await finance.deposit(tx, user_id=ada, amount=10_000)              # one share per minor unit put in
        await finance.transfer(tx, from_user_id=ada, to_user_id=emeka, amount=2_500)
        await finance.withdraw(tx, user_id=emeka, amount=500)
        await finance.distribute_yield(tx, distribution_id=month, amount=1_337)

    Money        is in the ledger and nowhere else: savings, shares, what came from outside and what pays yield are
                 accounts there. `finance.user_balances` is a view of them, so it cannot differ; SQL written against it
                 (insert, update of balance, shares, yield_earned) moves the difference.
    Transactions are the one door: an INSERT into `finance.transactions` with the status `completed` moves the money in
                 the same statement, `pending` reserves it, an UPDATE to `completed` or `failed` ends that. Python and
                 psql go through the same trigger. A transfer is one row for each side.
    Shares       say how yield is divided: a deposit brings one share per minor unit, a withdrawal or transfer takes
                 them in proportion to the balance. `shares=` says otherwise.
    Yield        is divided by the largest remainder: every minor unit is paid, none is made. A distribution has an id
                 and happens once.
    The trail    `finance.transaction_history` holds who did what, before and after, as one chain of hashes per user;
                 nothing changes it. Seals bind all chains together; a seal's digest, kept elsewhere, proves them.

Amounts are whole numbers of the currency's minor unit. `documents` is not there yet: preferences are no part of the
dashboard until it is.

Public names: `headwater.modules.finance.models` (MoneyTransaction, TransactionType, TransactionStatus, Direction,
Distribution, Holder, HistoryEntry, Seal) and `headwater.modules.finance.repository` (FinanceRepository, UserBalance,
Dashboard, Verification).
"""

from __future__ import annotations

from headwater.kernel.module import Module

MODULE = Module(
    name="finance",
    package=__name__,
    summary="Savings, shares, yield, and the audit trail of every transaction.",
    depends_on=("identity", "ledger"),
)
