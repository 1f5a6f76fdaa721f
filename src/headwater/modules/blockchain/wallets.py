"""Wallets: keypairs made and kept for users, what is in them, and signatures by keys that nobody gets to see."""

from __future__ import annotations

from typing import cast
from uuid import UUID

import msgspec
from sqlalchemy import select

from headwater.kernel.errors import NotFound, StateConflict
from headwater.kernel.keyring import Keyring
from headwater.kernel.postgres import Runner
from headwater.kernel.queries import Queries
from headwater.kernel.repository import Repository
from headwater.kernel.sealed import sealed_column
from headwater.modules.blockchain import formats
from headwater.modules.blockchain.keypairs import Keypair
from headwater.modules.blockchain.models import Wallet

QUERIES = Queries.load(__package__)
PRIVATE_KEY = sealed_column(Wallet, "encrypted_private_key")


class WalletBalance(msgspec.Struct, frozen=True, kw_only=True):
    """What the wallets of one user have, in units of FODI. Pending transactions hold a part of the balance."""

    user_id: UUID
    wallets: int
    balance: int
    held: int
    available: int


class WalletRepository(Repository[Wallet]):
    """Wallets of users. Their balances are changed by FODI transactions alone."""

    async def create_wallet(
        self, tx: Runner, *, user_id: UUID, wallet_type: str = "solana", secret: bytes | None = None
    ) -> Wallet:
        """A wallet with a new keypair, or with the one whose private key is given. The private key is stored sealed.

        Raises KeyMissing without a keyring, MissingReference for an unknown user, AlreadyExists for a known keypair.
        """
        pair = Keypair.make() if secret is None else Keypair.of(secret)
        sealed = Keyring.of(self.postgres.settings).seal(pair.secret, bound_to=PRIVATE_KEY.place(pair.address))
        return await self.create(
            tx,
            user_id=user_id,
            public_key=pair.address,
            encrypted_private_key=sealed,
            wallet_type=formats.checked("wallet_type", wallet_type, formats.NETWORK_PATTERN, "solana"),
        )

    async def watch_wallet(self, tx: Runner, *, user_id: UUID, public_key: str, wallet_type: str = "solana") -> Wallet:
        """A wallet whose private key is kept elsewhere: it is counted, and cannot sign here."""
        return await self.create(
            tx,
            user_id=user_id,
            public_key=formats.checked_wallet(public_key),
            wallet_type=formats.checked("wallet_type", wallet_type, formats.NETWORK_PATTERN, "solana"),
        )

    async def by_address(self, public_key: str, *, tx: Runner | None = None) -> Wallet:
        """The wallet with this public key, as it is now. Raises NotFound, InvalidValue."""
        found = await self.find_by(Wallet.public_key == formats.checked_wallet(public_key), tx=tx)
        if found is None:
            raise NotFound(
                f"blockchain.wallets: there is no wallet with the address {public_key}.",
                remedy="Check the address.",
                key=public_key,
            )
        return found

    async def wallets_of(self, user_id: UUID, *, tx: Runner | None = None) -> tuple[Wallet, ...]:
        """The wallets of a user, the oldest first: at most 200."""
        return (await self.list(Wallet.user_id == user_id, limit=200, tx=tx)).items

    async def get_wallet_balance(self, user_id: UUID, *, tx: Runner | None = None) -> int:
        """What the wallets of a user have together, in units of FODI: what the ledger says, from PostgreSQL.

        Raises NotFound for an unknown user.
        """
        return (await self.balance_of(user_id, tx=tx)).balance

    async def balance_of(self, user_id: UUID, *, tx: Runner | None = None) -> WalletBalance:
        """The same, with what pending transactions hold of it. Raises NotFound for an unknown user."""
        found = await (tx or self.postgres).fetch_one(QUERIES["wallet_balance"], into=WalletBalance, user_id=user_id)
        if found is None:
            raise NotFound(f"users: there is no row with the key {user_id}.", remedy="Check the key.", key=str(user_id))
        return cast(WalletBalance, found)

    async def sign(self, public_key: str, message: bytes, *, tx: Runner | None = None) -> bytes:
        """The wallet's Ed25519 signature of a message. Raises NotFound, KeyMissing, SealBroken, and StateConflict for a
        wallet that is watched only.
        """
        wallet = await self.by_address(public_key, tx=tx)
        sealed = await (tx or self.postgres).fetch_value(
            select(Wallet.encrypted_private_key).where(Wallet.id == wallet.id)
        )
        if sealed is None:
            raise StateConflict(
                f"blockchain.wallets: the private key of {public_key} is not kept here.",
                remedy="Sign where it is kept.",
            )
        secret = Keyring.of(self.postgres.settings).open(sealed, bound_to=PRIVATE_KEY.place(public_key))
        return Keypair.of(secret).sign(message)
