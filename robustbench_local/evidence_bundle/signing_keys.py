"""What signatures need of ``cryptography``, which the extra ``evidence`` installs."""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

__all__ = [
    "ECDSA",
    "SHA256",
    "Ed25519PrivateKey",
    "Ed25519PublicKey",
    "EllipticCurvePrivateKey",
    "EllipticCurvePublicKey",
    "Encoding",
    "InvalidSignature",
    "PublicFormat",
    "load_pem_private_key",
    "load_pem_public_key",
]
