"""msgpack both ways, typed. Decoding builds only the structs named here: nothing that arrives is ever executed."""

from __future__ import annotations

import msgspec

from ramify.wire.messages import ToClient, ToEngine
from ramify.wire.plan import Plan
from ramify.wire.result import StepResult

encode = msgspec.msgpack.Encoder().encode

decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_to_client = msgspec.msgpack.Decoder(ToClient).decode
decode_plan = msgspec.msgpack.Decoder(Plan).decode
decode_result = msgspec.msgpack.Decoder(StepResult).decode
