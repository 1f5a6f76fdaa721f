"""NFTs: single tokens minted to an address and moved from owner to owner."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import update

from headwater.kernel.errors import NotFound, StateConflict
from headwater.kernel.pages import Page
from headwater.kernel.postgres import Runner
from headwater.kernel.repository import Repository
from headwater.modules.blockchain import formats
from headwater.modules.blockchain.keypairs import Keypair
from headwater.modules.blockchain.models import Nft

URI_PATTERN = r"^[a-z][a-z0-9+.-]*:[^\s]{1,2000}$"


class NftRepository(Repository[Nft]):
    """Non-fungible tokens, known by their mint address."""

    async def mint_nft(
        self,
        tx: Runner,
        *,
        name: str,
        owner_address: str,
        symbol: str | None = None,
        uri: str | None = None,
        mint_address: str | None = None,
        metadata_: dict[str, Any] | None = None,
    ) -> Nft:
        """A new NFT; without a mint address it gets one. Raises AlreadyExists for a known one, InvalidValue."""
        return await self.create(
            tx,
            mint_address=formats.checked_address(mint_address or Keypair.make().address, field="mint_address"),
            name=formats.checked_name(name),
            symbol=None if symbol is None else formats.checked_symbol(symbol),
            uri=None if uri is None else formats.checked("uri", uri, URI_PATTERN, "https://example.org/1.json"),
            owner_address=formats.checked_address(owner_address, field="owner_address"),
            metadata_=formats.checked_specifications(metadata_ or {}, field="metadata"),
        )

    async def transfer_nft(self, tx: Runner, mint_address: str, *, from_address: str, to_address: str) -> Nft:
        """Move an NFT to another owner. Raises NotFound, and StateConflict when somebody else owns it."""
        moved = await tx.fetch_one(
            update(Nft)
            .where(
                Nft.mint_address == mint_address,
                Nft.owner_address == formats.checked_address(from_address, field="from_address"),
            )
            .values(owner_address=formats.checked_address(to_address, field="to_address"))
            .returning(Nft)
        )
        if moved is not None:
            return cast(Nft, moved)
        known = await self.by_mint_address(mint_address, tx=tx)
        raise StateConflict(
            f"blockchain.nft_metadata: {mint_address} belongs to {known.owner_address}, not to {from_address}.",
            remedy="Only what somebody owns can be moved from them.",
            owner_address=known.owner_address,
        )

    async def by_mint_address(self, mint_address: str, *, tx: Runner | None = None) -> Nft:
        """The NFT with this mint address. Raises NotFound."""
        found = await self.find_by(Nft.mint_address == mint_address, tx=tx)
        if found is None:
            raise NotFound(
                f"blockchain.nft_metadata: there is no NFT {mint_address}.",
                remedy="Check the address.",
                key=mint_address,
            )
        return found

    async def nfts_of(
        self, owner_address: str, *, limit: int = 50, cursor: str | None = None, tx: Runner | None = None
    ) -> Page[Nft]:
        """The NFTs of an owner, newest first."""
        return await self.list(
            Nft.owner_address == owner_address, order=(Nft.created_at.desc(),), limit=limit, cursor=cursor, tx=tx
        )
