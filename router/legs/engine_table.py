"""The answer of a bootstrap server: its engines, by data-parallel rank."""

import msgspec


class Engine(msgspec.Struct):
    engine_id: str


decode_engines = msgspec.json.Decoder(dict[str, Engine]).decode
