"""The peer's certificate, as get_extra_info("peer_certificate") gives it."""

from __future__ import annotations

import datetime
import hashlib
import ssl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    _Name = tuple[tuple[str, str], ...]


def _name(parts: Any) -> _Name:
    """A distinguished name without its inner nesting."""
    return tuple(pair for part in parts for pair in part)


def _time(text: str) -> datetime.datetime:
    seconds = ssl.cert_time_to_seconds(text)
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


class Certificate:
    """An X.509 certificate.

    Two are equal when their bytes are.  What it says is trustworthy only if the
    context verifies certificates: without, the peer may send any.
    """

    __slots__ = ("_info", "chain", "der")

    der: bytes
    """The certificate itself."""

    chain: tuple[Certificate, ...]
    """All certificates that the peer has sent, its own first."""

    def __init__(
        self,
        der: bytes,
        info: dict[str, Any],
        chain: tuple[Certificate, ...] | None = None,
    ) -> None:
        self.der = der
        self._info = info
        self.chain = (self,) if chain is None else chain

    @property
    def subject(self) -> _Name:
        """Whose it is: ("commonName", "example.org") and the like."""
        return _name(self._info.get("subject", ()))

    @property
    def issuer(self) -> _Name:
        """Who has signed it."""
        return _name(self._info.get("issuer", ()))

    @property
    def common_name(self) -> str | None:
        """The subject's first common name."""
        for key, value in self.subject:
            if key == "commonName":
                return value
        return None

    @property
    def subject_alt_names(self) -> _Name:
        """("DNS", "example.org"), ("IP Address", "192.0.2.1") and the like."""
        return tuple(self._info.get("subjectAltName", ()))

    @property
    def dns_names(self) -> tuple[str, ...]:
        """The DNS names among the alternative names."""
        return tuple(name for kind, name in self.subject_alt_names if kind == "DNS")

    @property
    def not_before(self) -> datetime.datetime | None:
        """From when on it is valid, in UTC."""
        text = self._info.get("notBefore")
        return None if text is None else _time(text)

    @property
    def not_after(self) -> datetime.datetime | None:
        """Until when it is valid, in UTC."""
        text = self._info.get("notAfter")
        return None if text is None else _time(text)

    @property
    def serial_number(self) -> int | None:
        """The issuer's number for it."""
        text = self._info.get("serialNumber")
        return None if text is None else int(text, 16)

    @property
    def info(self) -> dict[str, Any]:
        """All of it, as ssl.SSLObject.getpeercert() gives it."""
        return dict(self._info)

    @property
    def pem(self) -> str:
        """The certificate in PEM."""
        return ssl.DER_cert_to_PEM_cert(self.der)

    def fingerprint(self, algorithm: str = "sha256") -> str:
        """The hash of `der`, in hexadecimal digits.

        Raises ValueError when hashlib does not know the algorithm.
        """
        return hashlib.new(algorithm, self.der).hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Certificate):
            return NotImplemented
        return self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value}" for key, value in self.subject)
        return f"<{type(self).__name__} {shown or 'of nobody'}>"


def _sent_chain(ssl_object: Any) -> list[tuple[bytes, dict[str, Any]]]:
    """What the peer has sent, as far as this Python tells."""
    lower = getattr(ssl_object, "_sslobj", None)
    ask = getattr(lower, "get_unverified_chain", None)
    if ask is None:
        return []
    return [
        (ssl.PEM_cert_to_DER_cert(each.public_bytes()), each.get_info())
        for each in ask() or ()
    ]


def of_peer(ssl_object: ssl.SSLObject) -> Certificate | None:
    """The certificate of the peer of a connection; None when it has sent none."""
    der = ssl_object.getpeercert(True)
    if der is None:
        return None
    sent = _sent_chain(ssl_object)
    if not sent or sent[0][0] != der:
        sent.insert(0, (der, ssl_object.getpeercert() or {}))
    chain: tuple[Certificate, ...] = ()
    for each, info in reversed(sent):
        certificate = Certificate(each, info)
        chain = (certificate, *chain)
        certificate.chain = chain
    return chain[0]
