"""The tree of errors, each with its code on the wire.

    HubError
    ├── Refusal            answers one request; the session lives
    │   ├── ClientError    the same request cannot succeed as it stands
    │   └── Unavailable    the same request may succeed later
    └── Closing            ends the connection
                           4000-4499: come back with backoff
                           4500-4999: stop and tell the person

Exceptions exist only inside the process.  ``server.py`` turns them into
``refused`` messages and close codes; anything that is not a HubError becomes the
refusal ``internal`` without detail.  Every code is in docs/protocol.md "Errors";
a test compares the two lists.
"""

from __future__ import annotations

from dataclasses import dataclass


class HubError(Exception):
    """Base of everything the hub refuses or closes for."""


class Refusal(HubError):
    """Answers one request.  ``code`` is protocol, ``message`` is for people and may change."""

    def __init__(self, code: str, message: str = "", *, retry_after_s: float | None = None) -> None:
        kind = REFUSALS[code]
        super().__init__(message or kind.message)
        self.code = code
        self.message = message or kind.message
        self.retry = kind.retry
        self.retry_after_s = retry_after_s


class Closing(HubError):
    """Ends the connection with a close code; nothing that was pending is answered."""

    def __init__(self, name: str, reason: str = "") -> None:
        self.code = CLOSINGS[name].code
        self.name = name
        self.reason = reason or name
        super().__init__(f"{self.code} {self.reason}")


class StoreUnavailable(HubError):
    """The store did not answer.  What was being appended may or may not be durable; appending again is safe."""


@dataclass(frozen=True, slots=True)
class RefusalKind:
    """What one refusal code means: can the same request succeed later, and what helps."""

    retry: bool
    message: str


@dataclass(frozen=True, slots=True)
class ClosingKind:
    """What one closing means; the band of ``code`` tells a device that does not know it what to do."""

    code: int
    message: str

    @property
    def retry(self) -> bool:
        """Whether the device should come back."""
        return self.code < 4500


REFUSALS: dict[str, RefusalKind] = {
    # the request itself
    "bad_request": RefusalKind(False, "a field is missing, of the wrong type, or out of bounds"),
    "unknown_message": RefusalKind(False, "this hub does not know that message"),
    "out_of_turn": RefusalKind(False, "that message has no place at this point of the connection"),
    "rate_limited": RefusalKind(True, "too many messages; wait and send again"),
    "overloaded": RefusalKind(True, "the hub is busy; wait and send again"),
    "internal": RefusalKind(True, "something went wrong in the hub; nothing was answered"),
    "unavailable": RefusalKind(True, "the store did not answer; sending again is safe"),
    "too_many": RefusalKind(False, "a limit of this hub is reached; see the message"),
    # signing in
    "enrol_failed": RefusalKind(False, "the code is wrong, expired or used up"),
    "bad_device_key": RefusalKind(False, "the device key is not a valid Ed25519 public key"),
    "device_exists": RefusalKind(False, "this device id or key is enrolled already"),
    "bad_address": RefusalKind(False, "that is not one e-mail address this hub can use"),
    "slow_down": RefusalKind(True, "too many codes were asked for; wait and ask again"),
    # rights
    "not_found": RefusalKind(False, "there is no such thing on this account"),
    "no_space_proof": RefusalKind(False, "enter the space first: prove that you hold its key"),
    "bad_space_proof": RefusalKind(False, "the signature does not prove that you hold the space's key"),
    "stale_key_epoch": RefusalKind(False, "the space has a newer app key; learn it first"),
    "forbidden": RefusalKind(False, "this device's scope does not allow that"),
    "probation": RefusalKind(False, "this device is on probation; an older device can approve it"),
    "fresh_code_needed": RefusalKind(False, "type a new code from the e-mail first"),
    "operator_code_needed": RefusalKind(False, "enter the code of the authenticator app first"),
    "wrong_code": RefusalKind(False, "that code is wrong, or was used already; wait for the next one"),
    # one draft of an append
    "bad_draft": RefusalKind(False, "the sealed header does not fit this session, space or collection"),
    "too_large": RefusalKind(False, "the draft is larger than this hub takes"),
    "conflict": RefusalKind(False, "the record's newest change is not the base of this draft"),
    "out_of_order": RefusalKind(False, "an earlier draft is missing; seal anew and send in order"),
    "device_cloned": RefusalKind(False, "this counter was used for other bytes; take a new device identity"),
    "wiped": RefusalKind(False, "this draft was appended and has since been wiped"),
    "quota_exceeded": RefusalKind(False, "the account is full; deleting data or a larger quota helps"),
    "atomic_refused": RefusalKind(False, "another draft of the same all-or-nothing append was refused"),
}

CLOSINGS: dict[str, ClosingKind] = {
    "going_away": ClosingKind(4000, "the hub is restarting; come back"),
    "too_slow": ClosingKind(4001, "hello or auth did not arrive in time"),
    "heartbeat_lost": ClosingKind(4002, "no answer to the hub's ping"),
    "slow_consumer": ClosingKind(4008, "the device reads too slowly"),
    "rate_limited": ClosingKind(4029, "too many messages after being asked to slow down"),
    "overloaded": ClosingKind(4013, "the hub has too many sessions"),
    "internal": ClosingKind(4011, "something went wrong in the hub"),
    "moving": ClosingKind(4014, "the account is being moved to another hub; come back"),
    "malformed": ClosingKind(4500, "a frame was not a message of this protocol"),
    "auth_failed": ClosingKind(4501, "unknown device, wrong signature or wrong hub address"),
    "revoked": ClosingKind(4503, "this device was revoked"),
    "account_deleted": ClosingKind(4504, "the account was deleted"),
    "suspended": ClosingKind(4505, "the operator has suspended the account"),
    "moved": ClosingKind(4506, "the account lives at another hub now"),
    "replaced": ClosingKind(4509, "the same device connected elsewhere"),
    "version": ClosingKind(4510, "no protocol version in common"),
}
