"""Signatures of statements in DSSE envelopes, by Ed25519 or ECDSA keys.

Source: DSSE v1, github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import Path
from typing import Any

from robustbench_local.config.user_files import read_user_file
from robustbench_local.errors import ConfigError, format_install_command
from robustbench_local.evidence_bundle.check_results import BundleError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_KEY_BYTES = 1 << 16


def sign_statement(statement: bytes, key_file: Path) -> bytes:
    """Return the signed envelope of a statement.

    Args:
        statement: The bytes of the statement.
        key_file: A private key, PEM without a password: Ed25519, or ECDSA on P-256.

    Raises:
        ConfigError: If the key cannot be used, or the extra ``evidence`` is missing.
    """
    crypto = _import_cryptography()
    content = read_user_file(key_file, limit=MAX_KEY_BYTES)
    try:
        key = crypto.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        what = "is no private key in PEM without a password"
        raise ConfigError(
            what, where=str(key_file), remedy="make one: openssl genpkey -algorithm ed25519"
        ) from error
    message = _encode_pre_authentication(statement)
    if isinstance(key, crypto.Ed25519PrivateKey):
        signature = key.sign(message)
    elif isinstance(key, crypto.EllipticCurvePrivateKey) and key.curve.name == "secp256r1":
        signature = key.sign(message, crypto.ECDSA(crypto.SHA256()))
    else:
        raise ConfigError("is neither an Ed25519 key nor one of ECDSA on P-256", where=str(key_file))
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(statement).decode(),
        "signatures": [
            {"keyid": _compute_key_id(key.public_key(), crypto), "sig": base64.b64encode(signature).decode()}
        ],
    }
    return (json.dumps(envelope, indent=1) + "\n").encode()


def verify_envelope(envelope: Any, statement: bytes, key_file: Path) -> str:
    """Check that an envelope holds the statement, signed by a key.

    Args:
        envelope: The content of the envelope.
        statement: The bytes of the statement in the bundle.
        key_file: The public key, PEM.

    Returns:
        The id of the key: the SHA-256 of its DER form.

    Raises:
        BundleError: If the signature is not one of this key over this statement.
        ConfigError: If the key cannot be used, or the extra ``evidence`` is missing.
    """
    crypto = _import_cryptography()
    content = read_user_file(key_file, limit=MAX_KEY_BYTES)
    try:
        key = crypto.load_pem_public_key(content)
    except (ValueError, TypeError) as error:
        raise ConfigError("is no public key in PEM", where=str(key_file)) from error
    payload, signatures = _read_envelope(envelope)
    if payload != statement:
        raise BundleError("the signed statement is not the one in the bundle")
    message = _encode_pre_authentication(payload)
    for signature in signatures:
        try:
            if isinstance(key, crypto.Ed25519PublicKey):
                key.verify(signature, message)
            elif isinstance(key, crypto.EllipticCurvePublicKey):
                key.verify(signature, message, crypto.ECDSA(crypto.SHA256()))
            else:
                raise ConfigError("is neither an Ed25519 key nor one of ECDSA", where=str(key_file))
        except crypto.InvalidSignature:
            continue
        return _compute_key_id(key, crypto)
    raise BundleError("no signature is one of the given key")


def _read_envelope(envelope: Any) -> tuple[bytes, list[bytes]]:
    try:
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise BundleError(f"the signed envelope is not of the type {PAYLOAD_TYPE}")
        payload = base64.b64decode(envelope["payload"], validate=True)
        return payload, [base64.b64decode(entry["sig"], validate=True) for entry in envelope["signatures"]]
    except (KeyError, TypeError, binascii.Error) as error:
        raise BundleError("the signed envelope is not of the form of DSSE") from error


def _encode_pre_authentication(payload: bytes) -> bytes:
    """Return what is signed: type and payload, each with its length."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _compute_key_id(key: Any, crypto: Any) -> str:
    der = key.public_bytes(crypto.Encoding.DER, crypto.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _import_cryptography() -> Any:
    """Return the names of cryptography that are used here.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        from robustbench_local.evidence_bundle import signing_keys  # noqa: PLC0415 - it needs an extra
    except ImportError as error:
        raise ConfigError(
            "a signature needs the extra evidence", remedy=format_install_command("evidence")
        ) from error
    return signing_keys
