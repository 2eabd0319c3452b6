"""The key that signs ServiceAccount tokens, and what others need to check them (OpenID Connect discovery).

Source: RFC 7515, 7517 and 7519; OpenID Connect Discovery 1.0 as far as KEP-1393 has it.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from master.apiserver.accounts.claims import BadClaims, Claims, Ref
from sampan.pki.ca import CertificateError
from sampan.pki.files import write_atomically

Tree = dict[str, Any]

ISSUER = "https://kubernetes.default.svc.cluster.local"
ALGORITHM = "ES256"
KEY_FILE = "sa.key"
_UNCHECKED = {"verify_signature": True, "verify_exp": False, "verify_nbf": False, "verify_iat": False,
              "verify_aud": False, "verify_iss": False, "verify_sub": False, "verify_jti": False}
"""The library checks the signature; the claims, by our clock, are checked by us."""


class SigningKey:
    """An ECDSA key on P-256: a signature takes 0.1 ms, a fifteenth of RSA's, on each pod's way to its start."""

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        self._private = private
        self._public = private.public_key()
        numbers = self._public.public_numbers()
        self._jwk = {"kty": "EC", "crv": "P-256", "x": _base64(numbers.x.to_bytes(32, "big")),
                     "y": _base64(numbers.y.to_bytes(32, "big"))}
        der = self._public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.id = _base64(hashlib.sha256(der).digest())  # as upstream names keys

    @classmethod
    def create(cls) -> SigningKey:
        """A new one."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def ensure(cls, directory: Path) -> SigningKey:
        """The key in the directory of certificates, made at the first start; CertificateError where it is damaged."""
        path = directory / KEY_FILE
        try:
            pem = path.read_bytes()
        except FileNotFoundError:
            made = cls.create()
            directory.mkdir(parents=True, exist_ok=True)
            write_atomically(path, made._private.private_bytes(  # noqa: SLF001 - its own
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()), 0o600)
            return made
        try:
            private = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise CertificateError(f"{path}: {error}") from error
        if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
            raise CertificateError(f"{path} holds no key on P-256")
        return cls(private)

    def sign(self, claims: Tree) -> str:
        """A token."""
        return jwt.encode(claims, self._private, algorithm=ALGORITHM, headers={"kid": self.id, "typ": None})

    def legacy_token(self, namespace: str, account: str, uid: str, secret: str) -> str:
        """The token that belongs into a Secret, without an end."""
        return self.sign(Claims(namespace, Ref(account, uid), secret=Ref(secret, ""), legacy=True).legacy_tree())

    def verify(self, token: str) -> Tree:
        """The claims of a token that this key signed; BadClaims for any other. The claims are not looked at."""
        try:
            claims: Tree = jwt.decode(token, self._public, algorithms=[ALGORITHM], options=_UNCHECKED)  # type: ignore[arg-type]
        except (jwt.PyJWTError, ValueError) as error:
            raise BadClaims(str(error)) from error
        return claims

    def jwks(self) -> bytes:
        """``GET /openid/v1/jwks``: the public key."""
        return msgspec.json.encode({"keys": [{"use": "sig", "kid": self.id, "alg": ALGORITHM, **self._jwk}]})

    def discovery(self, address: str) -> bytes:
        """``GET /.well-known/openid-configuration``; `address` is host:port as others reach the server."""
        return msgspec.json.encode({
            "issuer": ISSUER, "jwks_uri": f"https://{address}/openid/v1/jwks", "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": [ALGORITHM]})


def token_like(token: str) -> bool:
    """Whether a bearer token may be a JWT: three parts with dots between."""
    return token.count(".") == 2 and token.startswith("eyJ")


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
