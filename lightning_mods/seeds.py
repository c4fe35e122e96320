"""Seeds made from seeds: of an epoch, of a mini-batch."""


def mixed(seed: int, value: int) -> int:
    """A 63-bit seed from a seed and a number (splitmix64's finaliser: neighbours come out unrelated)."""
    z = (seed * 0x9E3779B97F4A7C15 + value + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return (z ^ (z >> 31)) % 2**63
