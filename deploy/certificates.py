"""Certificates for development, signed by an authority of their own.

    python -m deploy.certificates FOLDER NAME...

For each name, FOLDER gets a folder with `tls.crt`, `tls.key` and the authority's `ca.crt`, like a Secret of Kubernetes.
A certificate is valid for servers and clients of that name, and for servers on this machine. A second call renews the
certificates; the authority is kept.
"""

import argparse
import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_HERE = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")))


class Authority:
    """Signs certificates. With its key, which is in its folder, anyone can sign certificates of any name."""

    def __init__(self, folder: Path) -> None:
        """The authority of a folder, created when there is none."""
        self._folder = folder
        self.file = folder / "ca.crt"
        key_file = folder / "ca.key"
        if not self.file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = (
                _certificate("Footfall development", key.public_key())
                .issuer_name(_name("Footfall development"))
                .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
                .add_extension(_usage("key_cert_sign"), critical=True)
                .sign(key, hashes.SHA256())
            )
            _write_key(key_file, key)
            self.file.write_bytes(certificate.public_bytes(Encoding.PEM))
        self._key = cast("ec.EllipticCurvePrivateKey", load_pem_private_key(key_file.read_bytes(), password=None))
        self._certificate = x509.load_pem_x509_certificate(self.file.read_bytes())

    def issue(self, name: str, names: list[x509.GeneralName] | None = None) -> tuple[Path, Path]:
        """Write a new certificate and its key, and return their files. `names`: default is `name` and this machine."""
        alternatives = [x509.DNSName(name), *_HERE] if names is None else names
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _certificate(name, key.public_key())
            .issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage("digital_signature"), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        file, key_file = folder / "tls.crt", folder / "tls.key"
        (folder / "ca.crt").write_bytes(self.file.read_bytes())
        file.write_bytes(certificate.public_bytes(Encoding.PEM))
        _write_key(key_file, key)
        return file, key_file


def _certificate(name: str, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(what: str) -> x509.KeyUsage:
    every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{one: one == what for one in every})


def _write_key(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        output.write(text)


def main() -> None:
    """Write certificates for development, signed by an authority in the same folder."""
    parser = argparse.ArgumentParser(prog="python -m deploy.certificates", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="folder of the authority; gets a folder for each name")
    parser.add_argument("name", nargs="+", help="DNS name of a service, or role of a client")
    options = parser.parse_args()
    authority = Authority(options.folder)
    for name in options.name:
        authority.issue(name)


if __name__ == "__main__":
    main()
