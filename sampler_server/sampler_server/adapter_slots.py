"""Which revisions an engine holds, who uses them, and which one has to go. Pure."""

from collections import OrderedDict

from sampler_api.errors import AdapterCapacity

__all__ = ["AdapterSlots"]


class AdapterSlots:
    """At most ``capacity`` revisions with their uses in flight; the least recently used goes."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._uses: OrderedDict[str, int] = OrderedDict()

    def __contains__(self, digest: str) -> bool:
        return digest in self._uses

    def __len__(self) -> int:
        return len(self._uses)

    def held(self) -> list[str]:
        """The revisions that are loaded, least recently used first."""
        return list(self._uses)

    def uses(self, digest: str) -> int:
        """Uses in flight of a revision; 0 when it is not held."""
        return self._uses.get(digest, 0)

    def hold(self, digest: str) -> bool:
        """Use a revision once more; False when it is not held."""
        if digest not in self._uses:
            return False
        self._uses[digest] += 1
        self._uses.move_to_end(digest)
        return True

    def release(self, digest: str) -> None:
        """Undo one use. Raises ValueError when there is none."""
        if not self._uses.get(digest):
            raise ValueError(f"adapter {digest} is released more often than it was acquired")
        self._uses[digest] -= 1

    def make_room(self) -> str | None:
        """Take the revision that has to go out of the table; ``None`` when there is room.

        Raises AdapterCapacity when every slot is in use; nothing has changed then.
        """
        if len(self._uses) < self._capacity:
            return None
        for digest, uses in self._uses.items():
            if not uses:
                del self._uses[digest]
                return digest
        raise AdapterCapacity(
            f"all {self._capacity} adapter slots of this replica are in use; wait, or serve with "
            "more adapters"
        )

    def add(self, digest: str, uses: int = 0) -> None:
        """A revision has been loaded. Raises ValueError when it is held or there is no room."""
        if digest in self._uses or len(self._uses) >= self._capacity:
            raise ValueError(f"no slot for adapter {digest}")
        self._uses[digest] = uses
