"""CRC32C, the checksum of RFC 4960 appendix B, for `smtp_trio.protocol.proxy_header`."""

from __future__ import annotations

#: The polynomial of Castagnoli, with its bits reversed.
POLYNOMIAL = 0x82F63B78


def _entry(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (POLYNOMIAL if octet & 1 else 0)
    return octet


TABLE = tuple(map(_entry, range(256)))


def crc32c(octets: bytes) -> int:
    """Return the checksum of ``octets``."""
    checksum = 0xFFFFFFFF
    for octet in octets:
        checksum = checksum >> 8 ^ TABLE[(checksum ^ octet) & 0xFF]
    return checksum ^ 0xFFFFFFFF
