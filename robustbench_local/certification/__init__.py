"""Certificates: one method a file, each a frozen dataclass behind the contract of ``base``."""
