"""How a generation ended, in the shape of SGLang's `finish_reason`."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

COMPLETE = "complete"


class Finish(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request stopped.

    `matched` is the stop token's id, or the stop string or regex match, where `type` is "stop". `length` is the number
    of output tokens where `type` is "length". `status` is an HTTP status where `type` is "abort" and an error caused
    it; an abort that somebody asked for has none, and the partial output is a good answer.
    """

    type: Literal["stop", "length", "abort"]
    matched: int | str | None = None
    length: int | None = None
    message: str | None = None
    status: int | None = None
    code: str | None = None

    @property
    def is_error(self) -> bool:
        """True where the request failed, as against ended."""
        return self.status is not None and self.status >= 400

    def to_sglang(self) -> dict[str, Any]:
        """`meta_info.finish_reason` of the native route."""
        if self.type == "stop":
            return {"type": "stop", "matched": self.matched}
        if self.type == "length":
            return {"type": "length", "length": self.length}
        return {"type": "abort", "message": self.message, "status_code": self.status, "err_type": self.code}

    @classmethod
    def stop(cls, matched: int | str) -> Finish:
        return cls(type="stop", matched=matched)

    @classmethod
    def complete(cls, token: int) -> Finish:
        """Nothing may follow `token`, which is text like the ones before it."""
        return cls(type="stop", matched=token, code=COMPLETE)

    @property
    def by_token(self) -> bool:
        """A stop token ended it, which is no text."""
        return self.type == "stop" and isinstance(self.matched, int) and self.code != COMPLETE

    @classmethod
    def at_length(cls, tokens: int) -> Finish:
        return cls(type="length", length=tokens)

    @classmethod
    def abort(cls, message: str = "Aborted", status: int | None = None, code: str | None = None) -> Finish:
        return cls(type="abort", message=message, status=status, code=code)


def internal_error(rid: str, code: str) -> Finish:
    """Something of ours failed. What it was stands in the log, under the id of the request, and nowhere else."""
    return Finish.abort(f"internal error (request {rid})", 500, code)
