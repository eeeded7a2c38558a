"""Waivers: failures that somebody accepts until a day, by name and with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Literal

WaiverState = Literal["used", "expired", "unneeded", "unmatched"]


@dataclass(frozen=True, kw_only=True)
class Waiver:
    """A failure that its owner accepts until a day."""

    id: str
    """Id of the gate whose failure is accepted."""
    reason: str
    """Why it is accepted."""
    owner: str
    """Who accepts it."""
    expiry: date
    """The last day on which it counts, in UTC."""
    model: str | None = None
    """Only for this model; None: for every model."""
    defense: str | None = None
    """Only for this defense; None: for every defense."""
    threat: str | None = None
    """Only under this threat model; None: under every one."""

    def has_expired(self, today: date) -> bool:
        """Return whether it no longer counts."""
        return today > self.expiry

    @property
    def terms(self) -> str:
        """Who accepts what, until when and why, in one line."""
        return f"{self.owner} accepts it until {self.expiry.isoformat()}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class JudgedWaiver:
    """A waiver and what it did in this judgement."""

    waiver: Waiver
    """The waiver."""
    state: WaiverState
    """``used``: it covers a failed gate; ``expired``: its last day has passed; ``unneeded``: its gates do not
    fail; ``unmatched``: no gate has its id, model and threat model."""
    remedy: str = ""
    """What to do about one that matches nothing, as an imperative."""

    @property
    def note(self) -> str:
        """What the reader has to know, in one line; empty if it is used."""
        waiver, where = self.waiver, ""
        for name, value in (("model", self.waiver.model), ("threat", self.waiver.threat)):
            where += f", {name} {value}" if value is not None else ""
        head = f"waiver {waiver.id!r}{where} of {waiver.owner}"
        match self.state:
            case "expired":
                return f"{head} expired on {waiver.expiry.isoformat()} and no longer counts"
            case "unneeded":
                return f"{head} is not needed: no gate that it names fails"
            case "unmatched":
                return f"{head} matches nothing: {self.remedy}"
            case _:
                return ""
