"""Signatures of bundles."""

from __future__ import annotations

import json

import pytest
from bundle_changes import change_bundle, edit_json

from robustbench_local.errors import ConfigError
from robustbench_local.evidence_bundle.make_bundle import BundleOptions, make_bundle
from robustbench_local.evidence_bundle.verify_bundle import VerificationOptions, verify_bundle

pytestmark = pytest.mark.extra
pytest.importorskip("cryptography", reason="signatures need the extra evidence")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa


def write_keys(folder, key, name: str):
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    kind = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, kind))
    return private, public


def check_signature(path, key):
    report = verify_bundle(path, VerificationOptions(key=key))
    return next(check for check in report.checks if check.name == "signature")


@pytest.mark.parametrize(
    "make_key", [ed25519.Ed25519PrivateKey.generate, lambda: ec.generate_private_key(ec.SECP256R1())]
)
def test_only_the_signers_key_fits(make_key, evidence_run, tmp_path):
    private, public = write_keys(tmp_path, make_key(), "own")
    _, other = write_keys(tmp_path, ed25519.Ed25519PrivateKey.generate(), "other")
    written = make_bundle(evidence_run, tmp_path / "b.zip", BundleOptions(signing_key=private))
    assert written.is_signed
    assert check_signature(written.path, public).status == "ok"
    assert check_signature(written.path, other).status == "failed"
    unchecked = check_signature(written.path, None)
    assert (unchecked.status, "--key" in unchecked.sentence) == ("not checked", True)
    # with new hashes the statement is another one than the signed one
    changed = change_bundle(written.path, tmp_path / "changed.zip", lambda folder: (folder / "x").touch())
    assert check_signature(changed, public).sentence == "the signed statement is not the one in the bundle"
    for edit in (
        lambda content: content.update(payloadType="text"),
        lambda content: content.update(payload="?"),
        lambda content: content.clear(),
        lambda content: content["signatures"][0].update(sig="AAAA"),
        lambda content: content["signatures"].clear(),
    ):
        forged = tmp_path / "forged.zip"
        change_bundle(written.path, forged, edit_json("statement.dsse.json", edit), writes_hashes=False)
        assert check_signature(forged, public).status == "failed"
        forged.unlink()
        for path in sorted(forged.with_suffix(".files").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def test_a_bundle_without_a_signature_fails_against_a_key(bundle, tmp_path):
    _, public = write_keys(tmp_path, ed25519.Ed25519PrivateKey.generate(), "own")
    assert check_signature(bundle, public).sentence == "the bundle is not signed, and a key was given"


def test_keys_that_cannot_be_used_are_named(bundle, evidence_run, tmp_path):
    private, public = write_keys(tmp_path, rsa.generate_private_key(65537, 2048), "rsa")
    with pytest.raises(ConfigError, match="neither an Ed25519 key"):
        make_bundle(evidence_run, tmp_path / "b.zip", BundleOptions(signing_key=private))
    with pytest.raises(ConfigError, match="no private key"):
        make_bundle(evidence_run, tmp_path / "b.zip", BundleOptions(signing_key=public))
    assert not (tmp_path / "b.zip").exists()
    own, _ = write_keys(tmp_path, ed25519.Ed25519PrivateKey.generate(), "own")
    signed = make_bundle(evidence_run, tmp_path / "s.zip", BundleOptions(signing_key=own)).path
    for key, words in ((public, "neither an Ed25519 key"), (own, "no public key"), (tmp_path / "no", "no")):
        with pytest.raises(ConfigError, match=words):
            verify_bundle(signed, VerificationOptions(key=key))
    assert json.loads(json.dumps(verify_bundle(signed).to_json()))["verdict"] == "stands"
