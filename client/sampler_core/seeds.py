"""Seeds of children and keys of groups: pure hashes, equal on every machine and in every process.

No global generator is read or set.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

__all__ = ["child_seed", "group_hash", "segment_seed"]

_MASK: Final = (1 << 64) - 1


def _mix(x: int) -> int:
    """SplitMix64's finaliser: a bijection of 64 bits; every input bit moves every output bit."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def child_seed(seed: int, index: int, child: int) -> int:
    """The 64 bit seed of child ``child`` of input ``index`` under the caller's ``seed``.

    All children of one call differ: ``_mix`` is a bijection, and (index, child), 32 bits each, is
    added to a constant of the seed. Of two seeds they collide as two random 64 bit numbers do.
    """
    return _mix(_mix(seed & _MASK) + ((index << 32) | (child & 0xFFFFFFFF)) & _MASK)


def segment_seed(seed: int, offset: int) -> int:
    """The seed for the segment that starts at token ``offset`` (0: the child's own).

    For engines whose generator cannot be set forward: begun again at its first draw it would repeat
    the noise of the tokens before ``offset``.
    """
    return seed if offset == 0 else _mix(_mix(seed) ^ offset)


@lru_cache(maxsize=1024)
def _revision_salt(base: str, adapter: str | None) -> bytes:
    return blake2b(f"{base}\0{adapter or ''}".encode(), digest_size=16).digest()


def group_hash(
    prompt_ids: bytes | memoryview, base: str, adapter: str | None, explicit: str | None
) -> int:
    """The 64 bit key of a group: of ``explicit`` and the revision, else of prompt and revision.

    ``prompt_ids`` are the bytes of i32 [P]. Prompts that a caller replicated are one group; one
    prompt under two revisions is two.
    """
    salt = _revision_salt(base, adapter)
    if explicit is None:
        return int.from_bytes(blake2b(prompt_ids, digest_size=8, salt=salt).digest())
    digest = blake2b(explicit.encode(), digest_size=8, salt=salt, person=b"explicit").digest()
    return int.from_bytes(digest)
