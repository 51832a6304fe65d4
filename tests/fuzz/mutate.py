"""Random changes of inputs, from a seed: no coverage guides them, so that they need nothing but Python."""

from random import Random

from tests.fuzz.target import Target

NUMBERS = (b"0", b"-1", b"1e999", b"99999999999999999999", b"9" * 400, b"0x10", b"\xb2")
MOST_CHANGES = 6


class Mutator:
    """target: whose inputs are made. seed: the same one makes the same inputs."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._random = Random(seed)
        self._inputs = target.corpus()
        self._words = (*target.words(), *NUMBERS)

    def input(self) -> bytes:
        random = self._random
        data = bytearray(random.choice(self._inputs))
        for _ in range(random.randint(1, MOST_CHANGES)):
            self._change(data)
        return bytes(data[: self._target.most_bytes])

    def _change(self, data: bytearray) -> None:
        random = self._random
        start = random.randint(0, len(data))
        end = min(len(data), start + random.choice((0, 1, 1, 2, 4, 8, 32, 200)))
        match random.randrange(7):
            case 0:
                data[start:end] = random.choice(self._words)
            case 1:
                data[start:start] = random.choice(self._words)
            case 2:
                del data[start:end]
            case 3:
                data[start:start] = data[start:end] * random.choice((1, 1, 2, 9, 50))
            case 4:
                data[start:end] = random.randbytes(end - start)
            case 5 if data:
                data[min(start, len(data) - 1)] ^= 1 << random.randrange(8)
            case _:
                other = random.choice(self._inputs)
                begin = random.randint(0, len(other))
                data[start:] = other[begin:]
